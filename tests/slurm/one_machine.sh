#!/usr/bin/env bash
# A real Slurm on one machine, for tests: a controller and two nodes, n1 and n2, of one CPU each.
#
#   tests/slurm/one_machine.sh start FOLDER     starts what does not run yet; prints the line that makes it yours:
#   export SLURM_CONF=FOLDER/slurm.conf         then sinfo, sbatch, srun and scontrol mean this Slurm
#   tests/slurm/one_machine.sh stop FOLDER      cancels its jobs, stops its processes, deletes FOLDER
#
# Needs Debian's slurm-wlm and munge (or the like), no systemd, no root. All its state is in FOLDER: neither /etc/slurm nor
# another Slurm of this machine is touched. FOLDER must have a short path, as it holds a socket.
set -euo pipefail

action=${1:-} folder=${2:-}
if [[ ! $action =~ ^(start|stop)$ || $folder != /* ]]; then
    echo "usage: $0 start|stop FOLDER (an absolute path)" >&2
    exit 2
fi
export SLURM_CONF=$folder/slurm.conf
export PATH=$PATH:/usr/sbin:/sbin
daemons=(slurmd.n2 slurmd.n1 slurmctld munged)

runs() { # NAME: whether the process of NAME.pid is there and still ours; a dead one nobody has waited for has no words
    local pid
    pid=$(cat "$folder/$1.pid" 2>/dev/null) && grep --quiet --text "${1%%.*}" "/proc/$pid/cmdline" 2>/dev/null
}

configure() {
    mkdir -p "$folder"/{state,log,spool.n1,spool.n2,munge}
    # munged refuses folders that others may write to, its parents included, unless it is forced to.
    chmod 755 "$folder" "$folder/munge"
    [[ -s $folder/munge/key ]] || (umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key")
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

start() {
    for program in munged slurmctld slurmd sinfo; do
        command -v "$program" >/dev/null || {
            echo "$0: there is no $program. On Debian: apt-get install --no-install-recommends slurm-wlm munge" >&2
            exit 1
        }
    done
    local port=${SLURM_ONE_MACHINE_PORT:-17810}
    configure
    runs munged || munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
        --pid-file="$folder/munged.pid" --log-file="$folder/log/munged.log" --seed-file="$folder/munge/seed" 2>/dev/null
    runs slurmctld || slurmctld
    for node in n1 n2; do
        runs "slurmd.$node" || slurmd -N "$node"
    done
    for _ in $(seq 60); do
        if [[ $(sinfo --noheader --Node --partition=debug --format=%T 2>/dev/null | grep --count -E 'idle|alloc|mix') == 2 ]]; then
            echo "export SLURM_CONF=$SLURM_CONF"
            return
        fi
        sleep 0.5
    done
    echo "$0: the nodes did not come up in 30 seconds. What the daemons said is in $folder/log" >&2
    exit 1
}

stop() {
    [[ -f $SLURM_CONF ]] || return 0
    if runs slurmctld; then
        scancel --full --signal=KILL --user="$(id -un)" 2>/dev/null || true
        scancel --user="$(id -un)" 2>/dev/null || true
    fi
    for daemon in "${daemons[@]}"; do
        if runs "$daemon"; then
            kill "$(cat "$folder/$daemon.pid")"
        fi
    done
    for _ in $(seq 50); do
        local left=0
        for daemon in "${daemons[@]}"; do
            if runs "$daemon"; then left=1; fi
        done
        [[ $left == 0 ]] && break
        sleep 0.2
    done
    rm -rf "$folder"
}

"$action"
