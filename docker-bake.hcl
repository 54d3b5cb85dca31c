# All images at once, for a registry: COMMIT=$(git rev-parse HEAD) VERSION=... REGISTRY=my.registry/lab docker buildx bake
variable "REGISTRY" { default = "" }
variable "VERSION" { default = "0+unknown" }
variable "COMMIT" { default = "unknown" }
variable "PIP_EXTRA_INDEX_URL" { default = "" }

group "default" { targets = ["image"] }

target "image" {
  matrix    = { stage = ["cpu", "train", "rl"] }
  name      = stage
  target    = stage
  tags      = [REGISTRY == "" ? "megatron-octo:${stage}" : "${REGISTRY}/megatron-octo:${stage}-${substr(COMMIT, 0, 12)}"]
  args      = { COMMIT = COMMIT, VERSION = VERSION, PIP_EXTRA_INDEX_URL = PIP_EXTRA_INDEX_URL }
  platforms = ["linux/amd64"]
}
