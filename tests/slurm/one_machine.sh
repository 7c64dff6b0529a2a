#!/usr/bin/env bash
# A real Slurm on one machine, for tests: a controller and two nodes, n1 and n2, of one CPU each.
#
#   one_machine.sh start FOLDER    starts what does not run yet; prints the line that makes it yours:
#   export SLURM_CONF=FOLDER/slurm.conf      from then on sinfo, sbatch, srun and scontrol mean this Slurm
#   one_machine.sh stop FOLDER     cancels its jobs, stops its processes, deletes FOLDER
#   one_machine.sh run COMMAND...  all in one, in a folder of its own: start, the command, stop
#
# Needs Debian's slurm-wlm and munge, or the like; root installs them where there is apt-get. Needs no systemd. All its state
# is in FOLDER, and neither /etc/slurm nor another Slurm of this machine is touched. FOLDER must be absolute and short, as
# it holds a socket.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

daemons=(slurmd.n2 slurmd.n1 slurmctld munged)

require_slurm() {
    local missing=()
    for program in munged slurmctld slurmd sinfo sbatch; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    [[ ${#missing[@]} == 0 ]] && return
    if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends slurm-wlm munge >/dev/null
    else
        echo "$0: there is no ${missing[*]}. On Debian: apt-get install --no-install-recommends slurm-wlm munge" >&2
        exit 1
    fi
}

configure() {
    local port=$((20000 + 10 * (RANDOM % 1000))) # below those that Linux gives to clients
    mkdir -p "$folder"/{state,log,spool.n1,spool.n2,munge}
    chmod 755 "$folder" "$folder/munge"
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key")
    # cred_expire: a requeued job waits for seconds, not for two minutes. KillWait, and GraceTime where a job of the
    # partition "urgent" takes the place of one of "debug": seconds that a job has for its checkpoint.
    cat >"$SLURM_CONF" <<CONF
ClusterName=one-machine
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2,batch_sched_delay=0,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
ReturnToService=2
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
NodeName=n1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=1 State=UNKNOWN
NodeName=n2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=1 State=UNKNOWN
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=2
CONF
}

runs() { # NAME: whether the process of NAME.pid is there and is still ours
    local pid
    pid=$(cat "$folder/$1.pid" 2>/dev/null) && grep --quiet --text "${1%%.*}" "/proc/$pid/cmdline" 2>/dev/null
}

start() {
    require_slurm
    [[ -f $SLURM_CONF ]] || configure
    # --force: munged would rather not run as root, nor in a folder of /tmp.
    runs munged || munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
        --pid-file="$folder/munged.pid" --log-file="$folder/log/munged.log" --seed-file="$folder/munge/seed" 2>/dev/null
    runs slurmctld || slurmctld
    for node in n1 n2; do
        runs "slurmd.$node" || slurmd -N "$node"
    done
    for _ in $(seq 120); do
        if [[ $(sinfo --noheader --Node --partition=debug --format=%T 2>/dev/null | grep --count -E 'idle|alloc|mix') == 2 ]]; then
            echo "export SLURM_CONF=$SLURM_CONF"
            return
        fi
        sleep 0.5
    done
    echo "$0: the nodes did not come up in a minute. The daemons' last words:" >&2
    tail --lines=5 "$folder"/log/*.log >&2
    exit 1
}

stop() {
    [[ -f $SLURM_CONF ]] || return 0
    if runs slurmctld; then
        scancel --full --signal=KILL --state=RUNNING --user="$(id -un)" 2>/dev/null || true
        scancel --user="$(id -un)" 2>/dev/null || true
        for _ in $(seq 100); do # or their processes would outlive it
            [[ -z $(squeue --noheader 2>/dev/null) ]] && break
            sleep 0.2
        done
    fi
    for daemon in "${daemons[@]}"; do
        if runs "$daemon"; then
            kill "$(cat "$folder/$daemon.pid")"
        fi
    done
    for _ in $(seq 50); do
        local left=()
        for daemon in "${daemons[@]}"; do
            if runs "$daemon"; then left+=("$daemon"); fi
        done
        [[ ${#left[@]} == 0 ]] && break
        sleep 0.2
    done
    rm -rf "$folder"
}

use() { # FOLDER
    folder=$1
    export SLURM_CONF=$folder/slurm.conf
}

case "${1:-} $#" in
start\ 2 | stop\ 2)
    [[ $2 == /* ]] || { echo "$0: FOLDER $2: expected an absolute path" >&2 && exit 2; }
    use "$2"
    "$1"
    ;;
run\ [2-9] | run\ [1-9][0-9])
    shift
    use "$(mktemp -d /tmp/slurm.XXXXXX)"
    trap stop EXIT
    start
    "$@"
    ;;
*)
    echo "usage: $0 start FOLDER | stop FOLDER | run COMMAND..." >&2
    exit 2
    ;;
esac
