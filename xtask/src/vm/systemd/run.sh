#!/bin/bash
# The package on a Debian with a systemd: what happens in the guest. Each test is a function whose name is a sentence; it
# fails with the first `must` that does. Results are told in the words of a Rust test program, on the second serial line, the
# exit status on the third; "again" there asks for another boot.

exec </dev/null >/dev/ttyS1 2>&1
export PATH=/usr/sbin:/usr/bin LC_ALL=C.UTF-8 HOME=/root

agent=/usr/local/bin/lab-agent
asker=/usr/local/bin/lab-asker
secret=/srv/lab/secret
word=hunter2-in-the-laboratory
report=/var/tmp/lab
policy=/etc/guard/policy.toml
pins=/sys/fs/bpf/guard-29cdc58255d9d7dc
told=/etc/guard/policy.d/20-told.toml
drop_in=/etc/systemd/system/guard.service.d/desktop.conf
line=/dev/ttyS3

# --- What tests say

# Whether it goes well; if not, the test is over.
must() {
    "$@" && return
    echo "    failed: $*"
    exit 1
}
no() { ! "$@"; }
# Until it goes well, or a minute has passed: an emulated processor is slow.
eventually() {
    local end=$((SECONDS + 60))
    until "$@"; do
        if ((SECONDS >= end)); then
            echo "    after a minute still not: $*"
            exit 1
        fi
        sleep 0.1
    done
}
says() {
    local wanted=$1 said
    shift
    said=$("$@" 2>&1)
    grep -q -e "$wanted" <<<"$said" && return
    echo "    $* does not say $wanted, but: ${said:0:600}"
    return 1
}
main_pid() { systemctl show --property MainPID --value guard.service; }
another_pid() {
    local now
    now=$(main_pid)
    [ "$now" != 0 ] && [ "$now" != "$1" ] && systemctl --quiet is-active guard.service
}
session_of() { guardctl --json sessions | tr '{' '\n' | sed -n "s/.*\"id\":\"\([^\"]*\)\".*\"agent\":\"$1\".*/\1/p" | head -n 1; }
has_session() { [ -n "$(session_of "$1")" ]; }
is_gone() { [ ! -e "/proc/$1" ]; }

# An agent of a name that nobody else has, trying to open the secret until it is told that it is enough.
start_agent() {
    rm -f "$report/$1".*
    setsid "$agent" "$1" </dev/null >/dev/null 2>&1 &
}
tried() {
    local count
    # It may just be written.
    count=$(cat "$report/$1.tried" 2>/dev/null)
    echo "${count:-0}"
}
goes_on() {
    local before
    before=$(tried "$1")
    went_on() { [ "$(tried "$1")" -gt $((before + 100)) ]; }
    eventually went_on "$1"
}
got_nothing() {
    [ ! -e "$report/$1.got" ] && return
    echo "    it was opened $(wc -l <"$report/$1.got") times"
    return 1
}
end_agent() {
    touch "$report/$1.enough"
    ended() { ! pgrep -f "$agent $1\$" >/dev/null; }
    eventually ended "$1"
}

write_policy() {
    cat >"$policy" <<TOML
version = 1
mode = "enforce"

[[agent]]
name = "lab-agent"
exe = ["lab-agent"]

[[label]]
name = "lab-secret"
files = ["$secret"]

[[label]]
name = "broker"
addresses = [
    "unix:/run/systemd/private", "unix:/run/user/*/systemd/private", "unix:/run/dbus/system_bus_socket",
    "unix:/run/user/*/bus", "unix:/run/containerd/containerd.sock",
]
follow = true

[[rule]]
name = "lab-refuse"
when = ["lab-secret"]
then = "deny"
TOML
}

# --- The first boot

the_package_installs_and_guardd_runs() {
    must dpkg --install /lab/first.deb
    must systemctl --quiet is-active guard.service
    must systemctl --quiet is-enabled guard.service
    must says '^guard:x:' getent group guard
    must says '^root:root 700$' stat --format '%U:%G %a' /var/lib/guard
    must says '^root:root 755$' stat --format '%U:%G %a' /run/guard
    must test -d /etc/guard/policy.d
    must no test -e "$policy"
}

its_state_is_told() {
    eventually says 'Status: "enforce: 0 sessions"' systemctl status --no-pager guard.service
    must says '"state":"ok","degraded":\[\]' guardctl --json status
    must says '"policy":"built-in"' guardctl --json status
    must says '"watched":"open","tier":"lsm"' guardctl --json status
}

doctor_finds_everything() {
    must guardctl doctor
    # It says by its status where guard could not run: here by somebody who may not.
    local status=0
    runuser -u worker -- guardctl --json doctor >/var/tmp/doctor 2>&1 || status=$?
    must [ "$status" = 1 ]
    must grep --quiet 'guard cannot run' /var/tmp/doctor
}

# A password of nobody's, in a file that no pattern names, and the policy that is built in.
what_a_file_holds_is_found_by_the_unit_as_it_is() {
    mkdir -p /srv/found
    printf 'the old one: postgres://shop:%s%s@db.internal/shop\n' Qz7Lk2Vw 9XtRb4Nc >/srv/found/notes
    cd /srv/found || exit 1
    guardctl run --agent lab-finder -- sh -c 'until [ -e enough ]; do read -r line <notes; sleep 0.2; done' &
    # Neither may leave the class that guardd is in, so they work a part of the time.
    searches() { says "SCHED_RR" chrt --all-tasks --pid "$(main_pid)" && pgrep --lightweight guard-trees >/dev/null; }
    eventually searches
    found() { says '"rule":"secret-opened"' guardctl --json events --kind open >/dev/null; }
    eventually found
    # The next opens are facts by themselves.
    known() { guardctl --json events --kind open | grep '"rule":"secret-opened"' | grep --quiet --invert-match '"late":true'; }
    eventually known
    must no says 'secrets in' guardctl status
    touch enough
    wait
}

the_unit_is_hardened() {
    must systemd-analyze --no-pager --threshold=30 security guard.service >/var/tmp/security
    tail -n 1 /var/tmp/security
    # It warns on stderr about what it does not know.
    must says '^$' systemd-analyze --man=no verify guard.service
    local status
    status=/proc/$(main_pid)/status
    must says '^NoNewPrivs:.1' cat "$status"
    must says '^Seccomp:.2' cat "$status"
    # CAP_DAC_READ_SEARCH, CAP_KILL, CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_SYS_ADMIN.
    must says '^CapEff:.0000000000281024' cat "$status"
    must says 'SCHED_RR' chrt --pid "$(main_pid)"
    must says '^-900' cat "/proc/$(main_pid)/oom_score_adj"
    # The sentinel is not more than guardd.
    must says '^CapEff:.0000000000281024' cat "/proc/$(pgrep --full '^guardd-sentinel')/status"
    # Its view of the file system.
    must no nsenter --target "$(main_pid)" --mount touch /usr/of-guardd
    must no nsenter --target "$(main_pid)" --mount touch /sys/fs/bpf/of-guardd
}

man_pages_are_there() {
    must says 'guardctl-status' man guardctl
    must says 'guardctl policy check' man guardctl-policy-check
    must says '--state-dir' man guardd
    local page
    # One at a time: mandoc reads only the first that is compressed.
    for page in /usr/share/man/man1/guardctl*.gz /usr/share/man/man8/guardd.8.gz; do
        must mandoc -T lint -W error "$page"
    done
}

shells_complete_its_commands() {
    # As bash does it when somebody presses tab behind the word.
    must says '^approve' bash -c '. /usr/share/bash-completion/completions/guardctl
        COMP_WORDS=(guardctl appr) COMP_CWORD=1 COMP_LINE="guardctl appr" COMP_POINT=13
        $(complete -p guardctl | sed "s/.*-F \([^ ]*\).*/\1/") guardctl appr guardctl
        echo "${COMPREPLY[@]}"'
    must says '^approve' fish -c 'complete -C "guardctl appr"'
    must says '^_guardctl$' zsh -fc 'autoload -U compinit; compinit -D -u; echo $_comps[guardctl]; autoload +X _guardctl'
}

a_reload_puts_a_good_policy_in_force() {
    mkdir -p /srv/lab "$report"
    chmod 1777 "$report"
    echo "$word" >"$secret"
    cat >"$agent" <<'SH'
#!/bin/sh
# Its reports are named after its first word.
cd /var/tmp/lab
exec 2>/dev/null
tried=0
while [ ! -e "$1.enough" ]; do
    if read -r word </srv/lab/secret; then echo "$word" >>"$1.got"; fi
    tried=$((tried + 1))
    # Each refusal is an event: without a pause an emulated processor would do nothing else.
    if [ $((tried % 20)) = 0 ]; then
        echo $tried >"$1.tried"
        sleep 0.05
    fi
done
SH
    chmod 755 "$agent"
    # Nobody's business before.
    start_agent before
    opened() { [ -e "$report/before.got" ]; }
    eventually opened
    end_agent before
    write_policy
    must systemctl reload guard.service
    must says '^active$' systemctl is-active guard.service
    must says 'lab-refuse' guardctl policy show
}

# Everything that tells people and programs, for the tests below.
tell_people() {
    [ -e "$told" ] && return
    echo asked >/srv/lab/asked
    cat >"$told" <<TOML
[[label]]
name = "lab-asked"
files = ["/srv/lab/asked"]

[[rule]]
name = "lab-ask"
when = ["lab-asked"]
then = "hold"
timeout = "5m"

[notify.terminal]
[notify.desktop]

[metrics]
listen = "unix:/run/guard/metrics.sock"

[journald]
TOML
    must guardctl policy reload
}
# The user whose session it is is held, and somebody lets it go on.
held() { guardctl --json pending | grep -o '"id":"h-[0-9]*"' | head -n 1 | cut -d '"' -f 4; }
waits() { [ -n "$(held)" ]; }
be_held() {
    rm -f "$report/asked"
    runuser -u worker -- guardctl run --agent asked -- cat /srv/lab/asked >"$report/asked" 2>&1 &
    eventually waits
}
let_go_on() {
    went_on() { grep --quiet asked "$report/asked"; }
    must guardctl approve "$(held)"
    eventually went_on
}
part_is() { says "\"name\":\"$1\",\"state\":\"$2\"" guardctl --json status >/dev/null; }

a_hold_is_told_on_the_terminals_of_its_user() {
    tell_people
    # As an ssh session's.
    rm -f "$report/screen"
    setpriv --reuid worker --regid worker --init-groups script --quiet --flush --command 'sleep 600' "$report/screen" \
        </dev/null >/dev/null 2>&1 &
    local screen=$! before
    has_screen() { stat --format %U /dev/pts/[0-9]* | grep --quiet '^worker$'; }
    eventually has_screen
    be_held
    eventually grep --quiet 'guardctl approve h-' "$report/screen"
    must grep --quiet 'open /srv/lab/asked' "$report/screen"
    let_go_on
    must part_is terminal ok
    # And at a line, which is not in the service's own /dev.
    kill "$screen"
    eventually is_gone "$screen"
    its_users() { [ "$(stat --format %U "$line")" = worker ]; }
    eventually its_users
    written() { sed -n 's/^3:.* tx:\([0-9]*\).*/\1/p' /proc/tty/driver/serial; }
    before=$(written)
    wrote() { [ "$(written)" -gt $((before + 300)) ]; }
    must chmod g-w "$line"
    be_held
    eventually says "$line: it takes no messages" guardctl --json status
    let_go_on
    must chmod g+w "$line"
    be_held
    eventually part_is terminal ok
    eventually wrote
    let_go_on
}

figures_are_for_group_guard_alone() {
    tell_people
    eventually test -S /run/guard/metrics.sock
    must says '^root:guard 660$' stat --format '%U:%G %a' /run/guard/metrics.sock
    local ask='use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => "/run/guard/metrics.sock") or die "$!\n";
        print $s "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"; print while <$s>'
    must says '^guard_info{' setpriv --reuid worker --regid worker --groups guard perl -e "$ask"
    must says 'Permission denied' setpriv --reuid worker --regid worker --clear-groups perl -e "$ask"
}

the_system_log_has_fields() {
    tell_people
    be_held
    let_go_on
    eventually says 'GUARD_VERDICT=hold' sh -c 'journalctl --no-pager --output verbose --identifier guardd \
        GUARD_RULE=lab-ask GUARD_KIND=open | tee /var/tmp/entry'
    must grep --quiet 'GUARD_OBJECT=.*"/srv/lab/asked"' /var/tmp/entry
    must grep --quiet 'PRIORITY=4' /var/tmp/entry
    must grep --quiet '_SYSTEMD_UNIT=guard.service' /var/tmp/entry
}

a_desktop_is_reached_with_the_drop_in_and_not_without() {
    tell_people
    eventually test -S /run/user/1000/bus
    be_held
    eventually says 'the desktop of worker: [^"]*Operation not permitted' guardctl --json status
    let_go_on
    must install -D --mode 644 /usr/share/doc/guard/desktop.conf "$drop_in"
    must systemctl daemon-reload
    must systemctl restart guard.service
    # CAP_SETUID, CAP_SETGID, and no others more.
    must says '^CapEff:.00000000002810e4' cat "/proc/$(main_pid)/status"
    be_held
    # The user's own bus, which lets nobody else in: it answers, and that nothing there shows notifications.
    eventually says 'the desktop of worker: no notification service: [^"]*org.freedesktop' guardctl --json status
    let_go_on
    rm "$drop_in" "$told"
    # The next start is without again.
    must systemctl daemon-reload
    must guardctl policy reload
}

the_mode_is_set_by_one_command() {
    must says 'observe (was enforce)' guardctl observe
    must grep --quiet observe /etc/guard/policy.d/99-mode.toml
    must says "$word" guardctl run --agent moded -- cat "$secret"
    must says 'enforce (was observe)' guardctl enforce
    must no guardctl run --agent moded -- cat "$secret"
    rm /etc/guard/policy.d/99-mode.toml
    must guardctl policy reload
}

a_users_own_policy_is_read_from_their_home() {
    local home=/home/worker
    # Which nobody else may enter.
    must chmod 700 "$home"
    echo "$word" >"$home/diary"
    runuser -u worker -- mkdir -p "$home/.config/guard"
    cat >"$home/.config/guard/policy.toml" <<'TOML'
version = 1

[[label]]
name = "diary"
files = ["~/diary"]

[[rule]]
name = "no-diary"
when = ["diary"]
then = "deny"
TOML
    chown worker: "$home/diary" "$home/.config/guard/policy.toml"
    must guardctl policy reload
    must says '"user":"worker"' guardctl --json status
    must no runuser -u worker -- guardctl run --agent own -- cat "$home/diary"
    must says '"rule":"worker/no-diary"' guardctl --json events --kind open
    # For that user's sessions alone.
    must says "$word" guardctl run --agent own -- cat "$home/diary"
    rm -r "$home/.config/guard"
    must guardctl policy reload
}

an_agents_session_is_judged() {
    start_agent judged
    eventually has_session lab-agent
    goes_on judged
    must got_nothing judged
    eventually says 'enforce: 1 session' systemctl status --no-pager guard.service
    must says '"verdict":"deny".*"rule":"lab-refuse"' guardctl --json events --kind open
    # Nobody else's opens are refused.
    must says "$word" cat "$secret"
}

a_reload_of_a_wrong_policy_fails_and_changes_nothing() {
    local before
    before=$(main_pid)
    echo 'when = nonsense' >>"$policy"
    must no systemctl reload guard.service
    must says '^active$' systemctl is-active guard.service
    must [ "$(main_pid)" = "$before" ]
    must says 'lab-refuse' guardctl policy show
    goes_on judged
    must got_nothing judged
    write_policy
    must systemctl reload guard.service
}

# A session has a manager start what reads the secret: by the manager's own socket, and by the message bus (which systemd-run
# takes when it is to wait). $1: the session's and the manager's words for systemd-run; the rest runs something as its user.
by_the_manager() {
    local user=$1 way
    shift
    cat >"$asker" <<'SH'
#!/bin/sh
# The way, a file to write to, and more words for systemd-run; says what was written.
way=$1 file=$2
shift 2
if [ "$way" = bus ]; then set -- --wait "$@"; fi
systemd-run --quiet --collect --property "StandardOutput=file:$file" "$@" /bin/sh -c 'cat /srv/lab/secret; echo done'
tries=0
until grep -q done "$file" || [ $tries = 600 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
cat "$file"
SH
    chmod 755 "$asker"
    for way in own bus; do
        rm -f "$report"/asked.*
        must says "$word" "$@" "$asker" "$way" "$report/asked.by-nobody" $user
        must says done "$@" guardctl run --agent asker -- "$asker" "$way" "$report/asked.by-a-session" $user
        must no grep "$word" "$report/asked.by-a-session"
    done
}

what_a_session_has_systemd_run_belongs_to_it() {
    by_the_manager ''
    must says '"what":"followed"' guardctl --json events
}

what_a_session_has_containerd_run_belongs_to_it() {
    local root=/srv/lab/root name
    mkdir -p $root/usr $root/proc $root/dev $root/sys $root/srv
    for name in bin sbin lib lib64; do ln -s usr/$name $root/$name; done
    cat >"$asker" <<'SH'
#!/bin/sh
# The container's name.
ctr run --rm --rootfs --mount type=bind,src=/usr,dst=/usr,options=rbind:ro \
    --mount type=bind,src=/srv/lab,dst=/srv/lab,options=rbind:ro /srv/lab/root "$1" /bin/sh -c 'cat /srv/lab/secret; echo done'
SH
    chmod 755 "$asker"
    must systemctl start containerd.service
    must says "$word" "$asker" by-nobody
    guardctl run --agent asker -- "$asker" by-a-session >"$report/asked.session" 2>&1
    must says done cat "$report/asked.session"
    must no grep "$word" "$report/asked.session"
    must says '"container":"by-a-session"' guardctl --json events
    must systemctl stop containerd.service
}

an_upgrade_leaves_no_gap() {
    local before session tried
    before=$(main_pid)
    session=$(session_of lab-agent)
    tried=$(tried judged)
    must dpkg --install /lab/second.deb
    must [ "$(tried judged)" -gt $((tried + 100)) ]
    must another_pid "$before"
    must says 'upgrade$' dpkg-query --show guard
    must says '"what":"makes way"' guardctl --json events --kind guard
    must [ "$(session_of lab-agent)" = "$session" ]
    goes_on judged
    must got_nothing judged
    must [ "$(ls "$pins" | wc -l)" = 1 ]
    # What the administrator has written is not the package's.
    must grep --quiet lab-refuse "$policy"
}

a_guardd_that_hangs_is_started_again() {
    local before session
    before=$(main_pid)
    session=$(session_of lab-agent)
    kill -STOP "$before"
    goes_on judged
    eventually another_pid "$before"
    must says 'Watchdog timeout' journalctl --no-pager --unit guard.service
    eventually has_session lab-agent
    must [ "$(session_of lab-agent)" = "$session" ]
    goes_on judged
    must got_nothing judged
}

a_guardd_that_is_killed_is_started_again() {
    local before session
    before=$(main_pid)
    session=$(session_of lab-agent)
    kill -KILL "$before"
    eventually another_pid "$before"
    eventually has_session lab-agent
    must [ "$(session_of lab-agent)" = "$session" ]
    goes_on judged
    must got_nothing judged
    end_agent judged
}

# For the boot that comes: an agent from login, and a guardd that starts when it runs.
login_is_prepared() {
    cat >/home/worker/.bash_profile <<'SH'
lab-agent login
SH
    chown worker: /home/worker/.bash_profile
    rm -f "$report"/login.*
    mkdir -p /etc/systemd/system/guard.service.d
    cat >/etc/systemd/system/guard.service.d/late.conf <<'UNIT'
[Service]
ExecStartPre=+/bin/bash -c 'until [ -e /var/tmp/lab/login.got ]; do sleep 0.1; done'
UNIT
    must systemctl daemon-reload
}

# --- The second boot

after_a_reboot_the_agent_from_login_is_found() {
    ready() { systemctl --quiet is-active guard.service; }
    eventually ready
    eventually has_session lab-agent
    must says '"uid":1000' guardctl --json sessions
    # It had opened it before guardd was there, and has not since.
    local pid
    pid=$(pgrep --full "$agent login\$")
    rm -f "$report/login.got"
    goes_on login
    must got_nothing login
    must says "lab-agent" guardctl sessions
    must kill -KILL "$pid"
    eventually is_gone "$pid"
    # The profile ends with the agent, but not the login: the shell is still there.
    eventually no has_session lab-agent
}

an_agent_of_a_later_login_is_found_too() {
    rm -f "$report"/login.*
    must systemctl restart lab-login.service
    eventually has_session lab-agent
    goes_on login
    must got_nothing login
}

what_a_session_has_its_users_systemd_run_belongs_to_it() {
    local runtime=/run/user/1000
    eventually test -S "$runtime/bus"
    by_the_manager --user runuser -u worker -- env "XDG_RUNTIME_DIR=$runtime" "DBUS_SESSION_BUS_ADDRESS=unix:path=$runtime/bus"
}

stopping_takes_everything_off_and_starting_finds_who_runs() {
    must systemctl stop guard.service
    opened() { [ -e "$report/login.got" ]; }
    eventually opened
    must no pgrep --full '^(/usr/sbin/guardd|guardd-sentinel)'
    must [ -z "$(ls -A "$pins" 2>/dev/null)" ]
    rm -f /etc/systemd/system/guard.service.d/late.conf
    must systemctl daemon-reload
    must systemctl start guard.service
    eventually has_session lab-agent
    rm -f "$report/login.got"
    goes_on login
    must got_nothing login
}

removing_leaves_nothing_in_force() {
    must dpkg --remove guard
    opened() { [ -e "$report/login.got" ]; }
    eventually opened
    must no pgrep --full '^(/usr/sbin/guardd|guardd-sentinel)'
    must no test -e "$pins"
    must no test -e /run/guard
    must no test -e /usr/sbin/guardd
    must says 'not-found' systemctl show --property LoadState guard.service
    # What is the administrator's stays.
    must test -e "$policy"
    must test -d /var/lib/guard
    must says '^guard:' getent group guard
}

purging_removes_what_it_had_written() {
    must dpkg --purge guard
    must no test -e /var/lib/guard
    must no test -e /etc/guard
    must no test -e /etc/systemd/system/multi-user.target.wants/guard.service
    must says '^guard:' getent group guard
    must says 'no packages found' dpkg-query --show guard
    end_agent login
}

# --- Running them

first_boot=(
    the_package_installs_and_guardd_runs
    its_state_is_told
    doctor_finds_everything
    what_a_file_holds_is_found_by_the_unit_as_it_is
    the_unit_is_hardened
    man_pages_are_there
    shells_complete_its_commands
    a_reload_puts_a_good_policy_in_force
    a_hold_is_told_on_the_terminals_of_its_user
    figures_are_for_group_guard_alone
    the_system_log_has_fields
    a_desktop_is_reached_with_the_drop_in_and_not_without
    the_mode_is_set_by_one_command
    a_users_own_policy_is_read_from_their_home
    an_agents_session_is_judged
    a_reload_of_a_wrong_policy_fails_and_changes_nothing
    what_a_session_has_systemd_run_belongs_to_it
    what_a_session_has_containerd_run_belongs_to_it
    an_upgrade_leaves_no_gap
    a_guardd_that_hangs_is_started_again
    a_guardd_that_is_killed_is_started_again
    login_is_prepared
)
second_boot=(
    after_a_reboot_the_agent_from_login_is_found
    an_agent_of_a_later_login_is_found_too
    what_a_session_has_its_users_systemd_run_belongs_to_it
    stopping_takes_everything_off_and_starting_finds_who_runs
    removing_leaves_nothing_in_force
    purging_removes_what_it_had_written
)

boot=$(cat /lab/boot 2>/dev/null || echo first)
passed=0 failed=0 left_out=0
declare -n tests=${boot}_boot
for name in "${tests[@]}"; do
    # Whoever wants some only gets those that make the guest what it is as well.
    case $name in
    the_package_installs* | a_reload_puts* | login_is* | an_agents_session*) ;;
    *)
        if [ -s /lab/only ] && ! grep -q -f /lab/only <<<"$name"; then
            left_out=$((left_out + 1))
            continue
        fi
        ;;
    esac
    began=$SECONDS
    if said=$("$name" 2>&1); then
        echo "test $name ... ok"
        [ -z "$said" ] || echo "    ${said##*$'\n'}"
        passed=$((passed + 1))
    else
        echo "test $name ... FAILED"
        echo "$said"
        journalctl --no-pager --boot --output short-monotonic --lines 40 | sed 's/^/    /'
        # What guard has seen of it, without what the first agent does all the time.
        guardctl --json events | grep -v '"agent":"lab-agent"' | tail -n 60 | cut -c -600 | sed 's/^/    /'
        failed=$((failed + 1))
    fi
    echo "    $((SECONDS - began)) s"
done
echo "test result: $([ $failed = 0 ] && echo ok || echo FAILED). $passed passed; $failed failed; 0 ignored; 0 measured; $left_out filtered out"
failed=$((failed + $(cat /lab/failed 2>/dev/null || echo 0)))
echo $failed >/lab/failed
if [ "$boot" = first ]; then
    echo second >/lab/boot
    sync
    echo again >/dev/ttyS2
    systemctl reboot
else
    echo $failed >/dev/ttyS2
    systemctl poweroff
fi
