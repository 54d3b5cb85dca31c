/*
 * A SPANK plugin that takes pyxis' options of srun and honours those that need no image: --container-mounts are bound in a mount
 * namespace of the task's own, --container-workdir is entered, the image's name goes into CONTAINER_IMAGE. For tests.
 *
 *   gcc -shared -fPIC -o container_options.so container_options.c
 *   plugstack.conf: required /path/to/container_options.so
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include <slurm/spank.h>

SPANK_PLUGIN(container_options, 1)

enum { IMAGE, MOUNTS, WORKDIR, ENV, COUNT };
static char *given[COUNT];

static int keep(int which, const char *value, int remote)
{
	given[which] = strdup(value);
	return ESPANK_SUCCESS;
}

static struct spank_option options[] = {
	{ "container-image", "IMAGE", "noted only", 1, IMAGE, keep },
	{ "container-mounts", "SOURCE:TARGET[:ro],...", "bound", 1, MOUNTS, keep },
	{ "container-workdir", "PATH", "entered", 1, WORKDIR, keep },
	{ "container-env", "NAMES", "ignored", 1, ENV, keep },
	SPANK_OPTIONS_TABLE_END
};

int slurm_spank_init(spank_t job, int argc, char **argv)
{
	for (int i = 0; i < COUNT; i++)
		if (spank_option_register(job, &options[i]) != ESPANK_SUCCESS)
			return ESPANK_ERROR;
	return ESPANK_SUCCESS;
}

/* pyxis makes the target in the image; here it is made on the machine, one level deep. */
static int bind_one(char *mount_words)
{
	char *rest, *source = strtok_r(mount_words, ":", &rest), *target = strtok_r(NULL, ":", &rest);
	char *flags = strtok_r(NULL, ":", &rest);

	mkdir(target, 0755);
	if (mount(source, target, NULL, MS_BIND | MS_REC, NULL) ||
	    (flags && strstr(flags, "ro") && mount(NULL, target, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL))) {
		slurm_error("container_options: cannot bind %s to %s: %m", source, target);
		return -1;
	}
	return 0;
}

int slurm_spank_task_init_privileged(spank_t job, int argc, char **argv)
{
	char *rest, *one;

	if (!given[IMAGE])
		return ESPANK_SUCCESS;
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) {
		slurm_error("container_options: no mount namespace: %m");
		return ESPANK_ERROR;
	}
	for (one = strtok_r(given[MOUNTS], ",", &rest); one; one = strtok_r(NULL, ",", &rest))
		if (bind_one(one))
			return ESPANK_ERROR;
	return spank_setenv(job, "CONTAINER_IMAGE", given[IMAGE], 1);
}

int slurm_spank_task_init(spank_t job, int argc, char **argv) /* after slurmstepd has changed its directory itself */
{
	if (given[WORKDIR] && chdir(given[WORKDIR])) {
		slurm_error("container_options: cannot enter %s: %m", given[WORKDIR]);
		return ESPANK_ERROR;
	}
	return ESPANK_SUCCESS;
}
