#!/bin/sh
# Starts a sweep on the Ray cluster that this runs on, or goes on with it if its run folder is there: so that whatever
# starts it again (a job that is retried, a pod that moved) loses nothing.
#
#   run-sweep.sh DIR SWEEP [options of both `towersweep launch` and `towersweep resume`]
set -eu
if [ "$#" -lt 2 ]; then
    echo "usage: run-sweep.sh DIR SWEEP [OPTIONS]" >&2
    exit 2
fi
folder=$1
sweep=$2
shift 2
if [ -e "$folder/sweep.toml" ]; then
    exec towersweep resume "$folder" --address auto --quiet "$@"
fi
exec towersweep launch "$sweep" --out "$folder" --address auto --quiet "$@"
