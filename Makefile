# Verbs only; what they do lives in scripts/. `make` alone lists them.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/pytest
# A deployment other than the default one: make infra PROJECT=film
ifneq ($(PROJECT),)
export COMFYEKS_PROJECT := $(PROJECT)
endif
# Hundreds of short Python programs run in a test: without kept bytecode each would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

##@ Start here
.PHONY: help setup install demo
help:            ## this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
setup:           ## check the prerequisites, install everything into this folder (.venv, .tools)
	@$(PYTHON) scripts/bootstrap.py
install:         ## the same for those who only deploy: without emulators and developers' tools
	@$(PYTHON) scripts/bootstrap.py --only-product
demo: setup      ## the main job, model in to image out, on an AWS inside this machine (KEEP=1 leaves it running, CLUSTER=yes adds Kubernetes)
	@$(BIN)/comfyeks demo $(if $(KEEP),--keep) $(if $(filter yes,$(CLUSTER)),--cluster)$(if $(filter no,$(CLUSTER)),--no-cluster)

##@ A real deployment
.PHONY: up down image infra infra-destroy addons events events-destroy
up: install      ## create or update everything: AWS, add-ons, image, charts, events (PLAN=1 only shows the steps)
	@$(BIN)/comfyeks up $(if $(PLAN),--plan)
down: install    ## remove everything but the data, after asking for the deployment's name
	@$(BIN)/comfyeks down $(if $(CONFIRM),--confirm $(CONFIRM))
infra: install   ## Terraform: data root, then platform; writes the generated values
	@$(BIN)/comfyeks infra apply
image: install   ## build image/ with CodeBuild and push it, unless the registry has it (LOCAL=1: with this machine's Docker)
	@$(BIN)/comfyeks image build $(if $(LOCAL),--local)
addons: install  ## pinned helm installs: Karpenter, load balancer controller, device plugin
	@$(BIN)/comfyeks addons install
events: install  ## chalice deploy: an upload to the models bucket reaches every GPU node
	@$(BIN)/comfyeks events deploy
events-destroy: install ## chalice delete
	@$(BIN)/comfyeks events delete
infra-destroy: install ## remove the platform, after asking for its name; buckets and images stay
	@$(BIN)/comfyeks infra destroy $(if $(CONFIRM),--confirm $(CONFIRM))

##@ Work on the project
.PHONY: check lint types test test-helm3 lock generate clean
# Without a cluster Helm 3 takes the Kubernetes of its client library, which its own release build tells it this way.
HELM3_KUBERNETES = -s -w $(foreach package,chartutil lint/rules,\
  -X helm.sh/helm/v3/pkg/$(package).k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/$(package).k8sVersionMinor=37)
check: setup lint types ## quick loop: lint, types, unit and render tests (under two minutes)
	@$(PYTEST) -q -n auto --dist loadgroup -m "not local and not e2e"
test: setup lint types ## every test
	@$(PYTEST) -n auto --dist loadgroup
test-helm3: setup ## the charts' tests once more, with Helm 3 (built on first use, about two minutes)
	@cd tools/helm3 && CGO_ENABLED=0 go build -trimpath -ldflags "$(HELM3_KUBERNETES)" -o $(CURDIR)/.tools/helm3 helm.sh/helm/v3/cmd/helm
	@COMFYEKS_HELM=.tools/helm3 $(PYTEST) -q -n auto --dist loadgroup tests/charts -m "not local"
lint: setup      ## ruff, import-linter, shellcheck, hadolint, yamllint, terraform fmt, generated files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/shellcheck $$(git ls-files '*.sh' .ci/run)
	@$(BIN)/hadolint image/Dockerfile
	@$(BIN)/yamllint --strict .
	@$(BIN)/lint-imports --no-logo
	@terraform fmt -check -recursive infra
	@$(BIN)/comfyeks dev charts verify
	@$(BIN)/comfyeks dev reference --check
types: setup     ## mypy --strict
	@$(BIN)/mypy
	@MYPYPATH=lambda-chalice $(BIN)/mypy --strict lambda-chalice/app.py lambda-chalice/chalicelib
	@$(BIN)/mypy --strict --scripts-are-modules node/comfyui-model-sync
	@$(BIN)/mypy --strict charts/comfyui/files/*.py
	@$(BIN)/mypy --strict --python-version 3.12 image/*.py
generate: setup  ## what is generated and committed: chart schemas, values per instance type, READMEs, docs/reference
	@$(BIN)/comfyeks dev charts generate
	@$(BIN)/comfyeks dev reference
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade \
  --generate-hashes --no-emit-index-url --no-header --no-annotate --no-emit-package comfyeks
lock: setup      ## resolve requirements.txt anew from pyproject.toml, and that of tools/policy
	@$(COMPILE) pyproject.toml local/pyproject.toml --all-extras --output-file requirements.txt
	@$(COMPILE) tools/policy/requirements.in --output-file tools/policy/requirements.txt
clean:           ## stop the local AWS and remove what was made here; .comfyeks/<name> of a deployment stays
	@[ ! -x $(BIN)/comfyeks ] || $(BIN)/comfyeks local down
	@rm -rf .venv .tools .comfyeks/local .comfyeks/demo .comfyeks/comfyui-demo \
	  .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
