#!/usr/bin/env bash
# mini_slurm.sh - a throw-away Slurm cluster on one Debian 12 machine, for tests.
#
#   mini_slurm.sh install  install the Debian packages that are missing, also those that tests need beside Slurm
#   mini_slurm.sh up       the same, then start the cluster and wait until all nodes are idle
#   mini_slurm.sh down     stop every process it started and remove its network and its files
#   mini_slurm.sh status   exit 0 when all nodes answer
#   mini_slurm.sh env      print the exports that point Slurm's clients at it (eval "$(mini_slurm.sh env)")
#   mini_slurm.sh crash N  end every process of node N at once, as a power cut would; up brings it back
#
# Each node has namespaces of its own: its IP, host name and ports, its processes, its /tmp. So
# multi-node code meets what it would meet on a cluster, and a node can be killed whole (see "crash").
# Everything else is one file system, as on a cluster's shared one. Where namespaces are not permitted,
# the nodes share the machine on different ports (MINI_SLURM_NET=loopback says so by hand).
# Run as root, without systemd, any number of times: up on a running cluster and down on none are no-ops.
set -euo pipefail

ROOT=${MINI_SLURM_ROOT:-/var/tmp/mini-slurm}     # every file of the cluster
NODES=${MINI_SLURM_NODES:-2}
CPUS=${MINI_SLURM_CPUS:-4}                        # CPUs a node claims (need not exist)
MEM=${MINI_SLURM_MEM:-8000}                       # MiB a node claims
GPUS=${MINI_SLURM_GPUS:-2}                        # GPUs a node claims: counted, no device behind them
ACCOUNT=${MINI_SLURM_ACCOUNT:-lab}                # charge account that jobs may name
ACCOUNTING=${MINI_SLURM_ACCOUNTING:-1}            # 1: slurmdbd + MariaDB, so that sacct answers
NET=${MINI_SLURM_NET:-auto}                       # auto | netns | loopback
SUBNET=${MINI_SLURM_SUBNET:-10.77.0}              # netns: head .254, node i .i
PORT=${MINI_SLURM_PORT:-16817}                    # slurmctld; +1 and on for the rest
SHARE_TMP=${MINI_SLURM_SHARE_TMP:-0}              # 1: nodes see the machine's /tmp
SPANK=${MINI_SLURM_SPANK:-}                       # a SPANK plugin (.so) for srun, e.g. one that takes pyxis' options
BRIDGE=mslurm0

conf=$ROOT/slurm.conf
names() { for i in $(seq "$NODES"); do echo "node$i"; done; }
say() { echo "mini_slurm: $*" >&2; }
die() { say "$*"; exit 1; }
until_ok() { # until_ok SECONDS COMMAND...
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ "$SECONDS" -lt "$end" ] || return 1; sleep 0.1; done
}
all_idle() { # every node answers and takes work
  [ "$(SLURM_CONF=$conf timeout 5 sinfo -hN -p batch -o '%N %T' 2>/dev/null | grep -cE ' (idle|mixed|allocated)$')" -eq "$NODES" ]
}
nodes_live() {
  local f
  for f in "$ROOT"/node-*.pid; do [ ! -e "$f" ] || [ -e "/proc/$(cat "$f")/exe" ] || return 1; done
}
is_up() { [ -f "$conf" ] && nodes_live && all_idle; }

install_packages() {
  # Slurm; a login node (sshd, rsync); what compiles a SPANK plugin
  local need=(slurmctld slurmd slurm-client munge iproute2 openssh-server openssh-client rsync gcc libc6-dev libslurm-dev)
  [ "$ACCOUNTING" = 1 ] && need+=(slurmdbd mariadb-server mariadb-client)
  dpkg -s "${need[@]}" >/dev/null 2>&1 && return
  export DEBIAN_FRONTEND=noninteractive
  local log; log=$(mktemp /tmp/mini-slurm-apt.XXXXXX)
  # No service may start by itself where a service manager does run.
  local made=
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    made=1; printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d
  fi
  local rc=0
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${need[@]}"; } >"$log" 2>&1 </dev/null || rc=$?
  if [ -n "$made" ]; then rm -f /usr/sbin/policy-rc.d; fi
  [ "$rc" -eq 0 ] || { tail -20 "$log" >&2; die "packages did not install: $log"; }
  rm "$log"
}

start_munge() {
  if munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then return; fi
  [ -s /etc/munge/munge.key ] || { (umask 077; head -c 128 /dev/urandom >/etc/munge/munge.key); chown munge: /etc/munge/munge.key; }
  install -d -o munge -g munge -m 755 /run/munge
  setpriv --reuid munge --regid munge --init-groups munged --force
  until_ok 10 munge -n || die "munged does not answer"
  touch "$ROOT/munged.ours"
}

namespaces_work() {
  local rc=0
  ip netns add mslurm-probe 2>/dev/null || return 1
  ip link add mslurm-p type veth peer name eth0 netns mslurm-probe 2>/dev/null || rc=1
  ip netns del mslurm-probe                       # and the pair with it
  return $rc
}

make_network() {
  ip link add $BRIDGE type bridge
  ip addr add "$SUBNET.254/24" dev $BRIDGE
  ip link set $BRIDGE up
  local i n
  for i in $(seq "$NODES"); do
    n=mslurm-node$i
    ip netns add "$n"
    ip link add "mslurm-$i" type veth peer name eth0 netns "$n"
    ip link set "mslurm-$i" master $BRIDGE up
    ip -n "$n" addr add "$SUBNET.$i/24" dev eth0
    ip -n "$n" link set eth0 up
    ip -n "$n" link set lo up
    ip -n "$n" route add default via "$SUBNET.254"
  done
  { echo "127.0.0.1 localhost"; echo "$SUBNET.254 $(hostname)"
    for i in $(seq "$NODES"); do echo "$SUBNET.$i node$i"; done; } >"$ROOT/hosts"
  : >"$ROOT/resolv.conf"                          # no name server: an unknown name fails at once
}

write_conf() {
  local head node_lines i
  if [ "$NET" = netns ]; then head=$SUBNET.254; else head=127.0.0.1; fi
  node_lines=$(for i in $(seq "$NODES"); do
    if [ "$NET" = netns ]; then echo "NodeName=node$i NodeAddr=$SUBNET.$i Port=$((PORT + 2))"
    else echo "NodeName=node$i NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$((PORT + 1 + i))"; fi
  done)
  cat >"$conf" <<E
ClusterName=mini
SlurmctldHost=$(hostname)($head)
SlurmctldPort=$PORT
SlurmUser=root
AuthType=auth/munge
MailProg=/bin/true
PlugStackConfig=$ROOT/plugstack.conf
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SlurmdParameters=config_overrides
SlurmctldParameters=node_reg_mem_percent=0
ReturnToService=2
KillWait=5
SlurmdTimeout=10
MinJobAge=86400
SchedulerParameters=sched_min_interval=100000,bf_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobCompType=jobcomp/none
SlurmctldPidFile=$ROOT/slurmctld.pid
SlurmctldLogFile=$ROOT/slurmctld.log
StateSaveLocation=$ROOT/state
SlurmdPidFile=$ROOT/slurmd-%n.pid
SlurmdLogFile=$ROOT/slurmd-%n.log
SlurmdSpoolDir=$ROOT/spool-%n
$(if [ "$ACCOUNTING" = 1 ]; then
    echo "JobAcctGatherType=jobacct_gather/linux"
    echo "AccountingStorageType=accounting_storage/slurmdbd"
    echo "AccountingStorageHost=localhost"
    echo "AccountingStoragePort=$((PORT + 1 + 100))"
    echo "AccountingStorageEnforce=associations"
  else
    echo "JobAcctGatherType=jobacct_gather/none"
    echo "AccountingStorageType=accounting_storage/none"
  fi)
NodeName=DEFAULT CPUs=$CPUS RealMemory=$MEM$([ "$GPUS" -gt 0 ] && echo " Gres=gpu:$GPUS") State=UNKNOWN
$node_lines
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
E
  if [ -n "$SPANK" ]; then echo "required $SPANK"; fi >"$ROOT/plugstack.conf"
  echo "CgroupPlugin=cgroup/v1" >"$ROOT/cgroup.conf"   # named, so that slurmd starts where no cgroup is mounted
  echo "AutoDetect=off" >"$ROOT/gres.conf"
  if [ "$GPUS" -gt 0 ]; then                      # Slurm counts a GPU for each file it is shown
    install -d "$ROOT/dev"
    for i in $(seq 0 $((GPUS - 1))); do : >"$ROOT/dev/gpu$i"; done
    echo "Name=gpu File=$ROOT/dev/gpu[0-$((GPUS - 1))]" >>"$ROOT/gres.conf"
  fi
}

start_accounting() {
  install -d -o mysql "$ROOT/db" "$ROOT/dbrun"
  mariadb-install-db --datadir="$ROOT/db" --user=mysql --auth-root-authentication-method=normal \
    --skip-test-db >"$ROOT/mariadb-install.log" 2>&1
  # setsid: the database is to outlive the shell that ran "up"
  setsid mariadbd --no-defaults --user=mysql --datadir="$ROOT/db" --socket="$ROOT/dbrun/sock" --skip-networking \
    --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 --pid-file="$ROOT/dbrun/mariadbd.pid" \
    >"$ROOT/mariadb.log" 2>&1 </dev/null &
  until_ok 20 mariadb-admin --no-defaults --socket="$ROOT/dbrun/sock" ping || die "MariaDB does not answer"
  mariadb --no-defaults --socket="$ROOT/dbrun/sock" -uroot -e "create database slurm_acct_db;
    create user slurm@localhost identified by 'slurm'; grant all on slurm_acct_db.* to slurm@localhost;"
  (umask 077; cat >"$ROOT/slurmdbd.conf" <<E
AuthType=auth/munge
DbdHost=localhost
DbdPort=$((PORT + 1 + 100))
SlurmUser=root
LogFile=$ROOT/slurmdbd.log
PidFile=$ROOT/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
E
  )
  MYSQL_UNIX_PORT=$ROOT/dbrun/sock slurmdbd
  until_ok 30 sacctmgr -n list cluster || die "slurmdbd does not answer: $ROOT/slurmdbd.log"
  { sacctmgr -i add cluster mini; sacctmgr -i add account "$ACCOUNT" Cluster=mini
    sacctmgr -i add user root Account="$ACCOUNT" DefaultAccount="$ACCOUNT"; } >"$ROOT/sacctmgr.log" 2>&1
}

start_node() { # the node's first process reaps orphans, and takes the whole node with it when it ends
  install -d -m 1777 "$ROOT/tmp-$1"
  # nsenter, not "ip netns exec": that mounts a fresh /sys, without the cgroups slurmd looks for
  setsid nsenter --net="/run/netns/mslurm-$1" unshare --uts --mount --pid --fork --kill-child --mount-proc bash -c '
    hostname "$1"; mount --bind "$3/hosts" /etc/hosts; mount --bind "$3/resolv.conf" /etc/resolv.conf
    [ "$4" = 1 ] || mount --bind "$3/tmp-$1" /tmp
    slurmd -D -N "$1" -f "$2" & wait' "mini-slurm-$1" "$1" "$conf" "$ROOT" "$SHARE_TMP" >/dev/null 2>&1 </dev/null &
  echo $! >"$ROOT/node-$1.pid"                    # of unshare: its end is the end of the node
}

revive() { # start crashed nodes again, where the rest still runs
  local n back=
  export SLURM_CONF=$conf
  timeout 5 scontrol ping >/dev/null 2>&1 || return 1
  for n in $(names); do
    [ -f "$ROOT/node-$n.pid" ] || return 1
    if [ ! -e "/proc/$(cat "$ROOT/node-$n.pid")/exe" ]; then start_node "$n"; back=1; fi
  done
  [ -n "$back" ] && until_ok 30 all_idle
}

crash() {
  [ -f "$ROOT/node-$1.pid" ] || die "no node $1"
  stop_pidfile "$ROOT/node-$1.pid" unshare -KILL
}

may_install() {
  [ "$(id -u)" -eq 0 ] || die "run as root"
  command -v apt-get >/dev/null || die "needs Debian's apt-get"
}

up() {
  may_install
  if is_up; then say "already up"; return; fi
  if [ -d "$ROOT" ]; then
    if revive; then say "crashed nodes are back"; return; fi
    down
  fi
  install -d -m 755 "$ROOT" "$ROOT/state"
  install_packages
  start_munge
  if [ "$NET" = auto ]; then if namespaces_work; then NET=netns; else NET=loopback; fi; fi
  if [ "$NET" = netns ]; then make_network; fi
  write_conf
  export SLURM_CONF=$conf
  if [ "$ACCOUNTING" = 1 ]; then start_accounting; fi
  slurmctld -f "$conf"
  local n
  for n in $(names); do
    install -d "$ROOT/spool-$n"
    if [ "$NET" = netns ]; then
      start_node "$n"
    else
      slurmd -N "$n" -f "$conf"
    fi
  done
  until_ok 30 all_idle || { sinfo >&2; tail -n 5 "$ROOT"/slurm*.log >&2; die "the nodes did not come up"; }
  say "$NODES nodes idle ($NET); eval \"\$($0 env)\""
}

stop_pidfile() { # stop_pidfile FILE NAME [SIGNAL]: end the process a pid file names, if it is still that program
  local pid
  [ -f "$1" ] || return 0
  pid=$(cat "$1")
  [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ] || return 0
  kill "${3:--TERM}" "$pid" 2>/dev/null || return 0
  until_ok 10 test ! -e "/proc/$pid/exe" || kill -9 "$pid" 2>/dev/null || true
}

down() {
  local n
  if [ -f "$conf" ]; then
    export SLURM_CONF=$conf
    if timeout 5 scancel --full --signal=KILL --state=RUNNING --user=root 2>/dev/null; then
      timeout 5 scancel --user=root 2>/dev/null || true
    fi
    for n in "$ROOT"/node-*.pid; do stop_pidfile "$n" unshare -KILL; done
    if [ ! -e "$ROOT/hosts" ]; then for n in "$ROOT"/slurmd-*.pid; do stop_pidfile "$n" slurmd; done; fi
    stop_pidfile "$ROOT/slurmctld.pid" slurmctld
    stop_pidfile "$ROOT/slurmdbd.pid" slurmdbd
    stop_pidfile "$ROOT/dbrun/mariadbd.pid" mariadbd
  fi
  for n in $(ip netns list 2>/dev/null | awk '$1 ~ /^mslurm-/ {print $1}'); do ip netns del "$n"; done
  ip link del $BRIDGE 2>/dev/null || true
  if [ -f "$ROOT/munged.ours" ]; then stop_pidfile /run/munge/munged.pid munged; fi
  rm -rf "$ROOT"
}

case ${1:-} in
  install) may_install; install_packages ;;
  up) up ;;
  down) down; say "down" ;;
  status) is_up && SLURM_CONF=$conf sinfo -N ;;
  crash) crash "${2:?node}" ;;
  env) echo "export SLURM_CONF=$conf" ;;
  *) sed -n '2,17p' "$0"; exit 2 ;;
esac
