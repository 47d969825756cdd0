# Commands for users. `make` lists them. They run in .venv, which is created on first use.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PY := .venv/bin/python
STAMP := .venv/.installed
UI_PORT ?= 5000

# No tool sends usage statistics or waits for a network.
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := true
export PYTHON TORCH_INDEX MAKECMDGOALS

# A variable counts only if it is set on make's command line: terminals export a COLUMNS of their own.
given = $(if $(filter command,$(firstword $(origin $(1)))),$(value $(1)))

$(STAMP): requirements.lock .ci/install
	@.ci/install

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

# The data source of these commands.
ON_DATA := demo experiment retrain bench-training bench-quality
$(ON_DATA): export GIVEN_SOURCE = $(call given,SOURCE)
$(ON_DATA): export GIVEN_USERS = $(call given,USERS)
$(ON_DATA): export GIVEN_ITEMS = $(call given,ITEMS)
$(ON_DATA): export GIVEN_COLUMNS = $(call given,COLUMNS)
$(ON_DATA): export GIVEN_ENCODING = $(call given,ENCODING)
$(ON_DATA): export GIVEN_DELIMITER = $(call given,DELIMITER)
$(ON_DATA): export GIVEN_QUOTE = $(call given,QUOTE)
$(ON_DATA): export GIVEN_NA_VALUES = $(call given,NA_VALUES)
$(ON_DATA): export GIVEN_TIME_FORMAT = $(call given,TIME_FORMAT)
$(ON_DATA): export GIVEN_TIMEZONE = $(call given,TIMEZONE)
$(ON_DATA): export GIVEN_NAME = $(call given,NAME)
$(ON_DATA): export GIVEN_NO_CONSENT = $(call given,NO_CONSENT)
DATA := $${GIVEN_SOURCE:+--source "$$GIVEN_SOURCE"} $${GIVEN_USERS:+--users "$$GIVEN_USERS"} \
  $${GIVEN_ITEMS:+--items "$$GIVEN_ITEMS"} $${GIVEN_COLUMNS:+--columns "$$GIVEN_COLUMNS"} \
  $${GIVEN_ENCODING:+--encoding "$$GIVEN_ENCODING"} $${GIVEN_DELIMITER:+--delimiter "$$GIVEN_DELIMITER"} \
  $${GIVEN_QUOTE:+--quote "$$GIVEN_QUOTE"} $${GIVEN_NA_VALUES:+--na-values "$$GIVEN_NA_VALUES"} \
  $${GIVEN_TIME_FORMAT:+--time-format "$$GIVEN_TIME_FORMAT"} $${GIVEN_TIMEZONE:+--timezone "$$GIVEN_TIMEZONE"} \
  $${GIVEN_NAME:+--name "$$GIVEN_NAME"} $${GIVEN_NO_CONSENT:+--no-consent}

.PHONY: demo
demo: $(STAMP) ## run every step from events to a live endpoint; on your data: SOURCE=events.csv [USERS= ITEMS= COLUMNS= NAME=]
	@$(PY) -m experiments.demo $(DATA)

.PHONY: experiment
experiment: export GIVEN_MINUTES = $(call given,MINUTES)
experiment: export GIVEN_WORKERS = $(call given,WORKERS)
experiment: export GIVEN_PRESET = $(call given,PRESET)
experiment: export GIVEN_DEFAULTS = $(call given,DEFAULTS)
experiment: export GIVEN_SEEDS = $(call given,SEEDS)
experiment: $(STAMP) ## tune, train and compare every model: [MINUTES=30 WORKERS=1 DEFAULTS= | PRESET=name] [SEEDS=1], SOURCE=... as for demo
	@$(PY) -m experiments.experiment $(DATA) $${GIVEN_MINUTES:+--minutes "$$GIVEN_MINUTES"} \
	  $${GIVEN_WORKERS:+--workers "$$GIVEN_WORKERS"} $${GIVEN_PRESET:+--preset "$$GIVEN_PRESET"} \
	  $${GIVEN_SEEDS:+--seeds "$$GIVEN_SEEDS"} $${GIVEN_DEFAULTS:+--defaults}

.PHONY: retrain
retrain: export GIVEN_CANDIDATES = $(call given,CANDIDATES)
retrain: export GIVEN_NO_DEPLOY = $(call given,NO_DEPLOY)
retrain: $(STAMP) ## retrain champion and challengers on newer events, gate and deploy: SOURCE=... [CANDIDATES= NO_DEPLOY=]
	@$(PY) -m experiments.retrain $(DATA) $${GIVEN_CANDIDATES:+--candidates $$GIVEN_CANDIDATES} \
	  $${GIVEN_NO_DEPLOY:+--no-deploy}

.PHONY: reproduce
reproduce: $(STAMP) ## run the stages that changed; pulls and pushes results if TIDEGATE_DVC_REMOTE=s3://... is set
	@.ci/reproduce

.PHONY: gate
gate: $(STAMP) ## judge the best candidate against the champion, and write the report as a page
	@$(PY) -m experiments.gate

.PHONY: stage
stage: $(STAMP) ## deploy the champion and send it a request
	@$(PY) -m features.materialize
	@$(PY) -m serving.deploy
	@$(PY) -m serving.ask --k 5

.PHONY: ui
ui: $(STAMP) ## start the MLflow UI on 127.0.0.1 [UI_PORT=5000]
	@.ci/ui start "$(UI_PORT)"

.PHONY: edge
edge: export GIVEN_WORKERS = $(call given,WORKERS)
edge: $(STAMP) ## start the recommendation API on 127.0.0.1:8090 [WORKERS=1]
	@$(PY) -m serving.edge.serve $${GIVEN_WORKERS:+--workers "$$GIVEN_WORKERS"}

.PHONY: keep
keep: $(STAMP) ## run TorchServe and restart it when it fails, until Ctrl-C or make stop
	@$(PY) -m serving.supervisor

.PHONY: status
status: $(STAMP) ## show what serves, since when, why, and the next step
	@$(PY) -m serving.deploy --status

.PHONY: collect
collect: $(STAMP) ## start the event collector
	@$(PY) -m data.collect.serve

.PHONY: snapshot
snapshot: export GIVEN_TODAY = $(call given,TODAY)
snapshot: $(STAMP) ## write what the event collector gained as daily partitions, for SOURCE=state/collect/events [TODAY=1]
	@$(PY) -m data.collect.snapshot $${GIVEN_TODAY:+--today}

.PHONY: rollout
rollout: $(STAMP) ## roll out a new champion by shadow and canary; rolls back if a limit is exceeded
	@$(PY) -m serving.rollout

.PHONY: rollback
rollback: $(STAMP) ## go back to the previous champion
	@$(PY) -m serving.deploy --rollback

.PHONY: backup
backup: export GIVEN_TO = $(call given,TO)
backup: $(STAMP) ## save state/ in one archive, while the platform runs [TO=folder or file.tar.gz]
	@$(PY) -m serving.backup save $${GIVEN_TO:+"$$GIVEN_TO"}

.PHONY: restore
restore: export GIVEN_FROM = $(call given,FROM)
restore: export GIVEN_REPLACE = $(call given,REPLACE)
restore: $(STAMP) ## restore state/ from an archive: FROM=file.tar.gz [REPLACE=1 keeps a present state aside]
	@$(PY) -m serving.backup restore $${GIVEN_REPLACE:+--replace} $${GIVEN_FROM:+-- "$$GIVEN_FROM"}

.PHONY: stop
stop: ## stop MLflow and TorchServe
	@.ci/ui stop
	@if [ -x $(PY) ]; then $(PY) -m serving.server stop; fi

# One process per core, at most four: tests start servers too. The tests of a file stay in one process and in order,
# because they share fixtures that take seconds to start.
PYTEST := $(PY) -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: test
test: $(STAMP) ## run all tests
	@$(PYTEST)

.PHONY: test-fast
test-fast: $(STAMP) ## run the tests that are not slow
	@$(PYTEST) -m "not slow"

.PHONY: lint
lint: $(STAMP) ## run ruff, mypy, the import contracts and zizmor (on the workflows)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports
	@.venv/bin/zizmor --offline --quiet .github

.PHONY: docs
docs: $(STAMP) ## build the documentation site in out/docs
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet
	@echo "Wrote the documentation to out/docs; open out/docs/index.html"

.PHONY: tracker
tracker: ## build the browser tracker, data/collect/tracker/tracker.js; needs Node.js 18 or later and npm
	@cd data/collect/tracker && npm ci --ignore-scripts --no-audit --no-fund --silent && npm run --silent check && npm run --silent build

.PHONY: bench
bench: $(STAMP) ## measure speed and memory against named references [ONLY=name]
	@for file in benchmarks/$(or $(ONLY),*).py; do \
	  name=$$(basename "$$file" .py); \
	  case $$name in _*|ncf_paper|chaos|collect_kills) continue;; esac; \
	  echo "== $$name"; $(PY) -m benchmarks.$$name; \
	done

.PHONY: bench-serving
bench-serving: export GIVEN_RUNS = $(call given,RUNS)
bench-serving: export GIVEN_SOAK = $(call given,SOAK)
bench-serving: $(STAMP) ## measure the endpoint under load against TorchServe's no-op handler [RUNS=3 SOAK=requests]
	@$(PY) -m benchmarks.serving $${GIVEN_RUNS:+--runs "$$GIVEN_RUNS"} $${GIVEN_SOAK:+--soak "$$GIVEN_SOAK"}

.PHONY: bench-fairness
bench-fairness: export GIVEN_RUNS = $(call given,RUNS)
bench-fairness: $(STAMP) ## measure what a hostile user key costs everybody else [RUNS=3]
	@$(PY) -m benchmarks.fairness $${GIVEN_RUNS:+--runs "$$GIVEN_RUNS"}

.PHONY: bench-chaos
bench-chaos: export GIVEN_MINUTES = $(call given,MINUTES)
bench-chaos: export GIVEN_KILLS = $(call given,KILLS)
bench-chaos: $(STAMP) ## kill processes at random while versions change, and count what clients saw [MINUTES=10 KILLS=20]
	@$(PY) -m benchmarks.chaos $${GIVEN_MINUTES:+--minutes "$$GIVEN_MINUTES"} $${GIVEN_KILLS:+--kills "$$GIVEN_KILLS"}

.PHONY: bench-collect
bench-collect: export GIVEN_RUNS = $(call given,RUNS)
bench-collect: export GIVEN_SOAK = $(call given,SOAK)
bench-collect: $(STAMP) ## measure the event collector against a bare HTTP server [RUNS=3 SOAK=events]
	@$(PY) -m benchmarks.collect $${GIVEN_RUNS:+--runs "$$GIVEN_RUNS"} $${GIVEN_SOAK:+--soak "$$GIVEN_SOAK"}

.PHONY: bench-collect-kills
bench-collect-kills: export GIVEN_KILLS = $(call given,KILLS)
bench-collect-kills: export GIVEN_LOG = $(call given,LOG)
bench-collect-kills: $(STAMP) ## kill the event collector at random, and compare what it acknowledged with its log [KILLS=50 LOG=kafka]
	@$(PY) -m benchmarks.collect_kills $${GIVEN_KILLS:+--kills "$$GIVEN_KILLS"} $${GIVEN_LOG:+--log "$$GIVEN_LOG"}

.PHONY: bench-training
bench-training: $(STAMP) ## compare training speed with RecTools' SASRec, which it installs on first use: SOURCE=... as for demo
	@$(PY) -m benchmarks.training $(DATA)

.PHONY: bench-quality
bench-quality: export GIVEN_PRESET = $(call given,PRESET)
bench-quality: $(STAMP) ## reproduce a committed leaderboard from nothing: SOURCE=... as for demo
	@$(PY) -m benchmarks.quality $(DATA) $${GIVEN_PRESET:+--preset "$$GIVEN_PRESET"}

.PHONY: lock
lock: $(STAMP) ## update the lock files from pyproject.toml
	@$(PY) .ci/lock.py
	@touch $(STAMP)

.PHONY: clean
clean: stop ## remove out/ and caches; keeps state/, .venv and DVC's cache
	@rm -rf out .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## clean, and remove .venv and DVC's cache; keeps state/
	@rm -rf .venv .venv.lock .dvc/cache .dvc/tmp
