#!/bin/sh
# Any other runner: steps that are children of one process. `--pid` names that process where guard's guess, the first
# process above this one that is no shell, is not it.
set -eu
guardctl ci start --mode block --allow "github.com:443, *.crates.io:443" --pid "${RUNNER_PID:?the worker process}" \
    --token-file "${STATE_DIR:?a directory that the job does not know}/guard-token"

# … the job's steps …

guardctl ci stop --token-file "$STATE_DIR/guard-token" --summary guard.md --sarif guard.sarif --fail-on stopped
