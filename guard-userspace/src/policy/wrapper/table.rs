//! Programs that run another command line, and how that is found on theirs: data only.
//!
//! One row for each way of using a program; several rows of one name are all tried. The options that take a value
//! come from the manual that is named above the row. An option that is missing there is passed over alone, and its
//! value may then be taken for the command: that finds nothing, and hides nothing that is executed on this machine.

/// What a command line has behind its options and operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// The words of a command.
    Command,
    /// The same, with assignments (`VAR=x`) in front.
    Environment,
    /// The same, and the first word is the name of a package (`vercel@latest`, `npm:vercel`).
    Package,
    /// An image, and then what its entry point gets: a command, or arguments of a program that the image is named
    /// after. The program's `scripts` is the option that names another entry point.
    Image,
    /// Words that are joined to a text for a shell.
    Text,
    /// Each word is a text for a shell.
    Texts,
    /// The first word is a text for a shell, if there is an option `-c`.
    AfterC,
    /// GNU parallel: a text, and behind `:::` what is put into it.
    Parallel,
    /// find: commands between `-exec` and `;` or `+`.
    Find,
    /// A command behind the first `--`.
    BehindDashes,
    /// Nothing that is run.
    Nothing,
}

/// One way of using a program that runs another command line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wrapper {
    /// Base names of the program.
    pub names: &'static [&'static str],
    /// Words that must come first, one of these; without any, none must.
    pub subcommands: &'static [&'static str],
    /// Options that take a value, which is the next word if it is not joined to them. With a `?`: that is a value only
    /// when it is joined.
    pub takes: &'static str,
    /// Options whose value is a text for a shell.
    pub scripts: &'static str,
    /// Words before the rest that are no options.
    pub operands: usize,
    /// What comes then.
    pub rest: Rest,
    /// A process of the session executes the command, on this machine: it is judged then. Otherwise this command line
    /// is the last that guard sees of it, and the program is gated for that.
    pub executed_here: bool,
}

/// All words are passed over.
const ALL: usize = usize::MAX;

/// A program whose options are followed by a command.
const fn wrapper(names: &'static [&'static str], takes: &'static str) -> Wrapper {
    Wrapper {
        names,
        subcommands: &[],
        takes,
        scripts: "",
        operands: 0,
        rest: Rest::Command,
        executed_here: true,
    }
}

impl Wrapper {
    const fn subcommands(self, subcommands: &'static [&'static str]) -> Self {
        Self {
            subcommands,
            ..self
        }
    }

    const fn scripts(self, scripts: &'static str) -> Self {
        Self { scripts, ..self }
    }

    const fn operands(self, operands: usize) -> Self {
        Self { operands, ..self }
    }

    const fn rest(self, rest: Rest) -> Self {
        Self { rest, ..self }
    }

    /// Only the values of `scripts` are run.
    const fn nothing_else(self) -> Self {
        self.operands(ALL).rest(Rest::Nothing)
    }

    const fn elsewhere(self) -> Self {
        Self {
            executed_here: false,
            ..self
        }
    }
}

/// ssh(1), OpenSSH.
const SSH: &str = "-B -b -c -D -E -e -F -I -i -J -L -l -M -m -O -o -P -p -Q -R -S -W -w";
/// docker(1), docker-exec(1), docker-container-run(1), podman-run(1), and what comes before the subcommand.
const CONTAINER: &str = "-H --host --context -c --config -l --log-level --url --connection --root -a --attach \
    --add-host --annotation --blkio-weight --cap-add --cap-drop --cgroup-parent --cgroupns --cidfile --cpu-shares \
    --cpus --cpuset-cpus --cpuset-mems --detach-keys --device --dns --domainname -e --env --env-file --expose --gpus \
    --group-add --health-cmd -h --hostname --ip --ipc --isolation --label --label-file --link --log-driver --log-opt \
    --mac-address -m --memory --memory-swap --mount --name --network --net --network-alias --oom-score-adj --pid \
    --pids-limit --platform -p --publish --pod --pull --restart --runtime --security-opt --shm-size --stop-signal \
    --stop-timeout --storage-opt --sysctl --tmpfs --ulimit -u --user --userns --uts -v --volume --volume-driver \
    --volumes-from -w --workdir";
/// docker compose exec, docker compose run (docs.docker.com/reference/cli/docker/compose).
const COMPOSE: &str = "-f --file -p --project-name --env-file --profile --project-directory --context -H --host --index \
    -e --env -u --user -w --workdir -v --volume -l --label --name --entrypoint --publish --cap-add --cap-drop --pull";
/// kubectl, "exec", "run" and "options" (kubernetes.io/docs/reference/kubectl).
const KUBECTL: &str = "-n --namespace -c --container --context --cluster --user --kubeconfig -s --server --token --as \
    --as-group --as-uid --certificate-authority --client-certificate --client-key -f --filename --image --labels -l \
    --overrides --request-timeout --pod-running-timeout --cache-dir --profile --env --port --target -v";
/// npx(1), npm-exec(1), npm config.
const NPM: &str = "-p --package -w --workspace --prefix --cache --registry --userconfig --loglevel";
/// tmux(1): before the command, and of new-session, new-window, split-window, respawn-pane, display-popup, run-shell.
const TMUX: &str = "-L -S -f -T -n -s -t -x -y -e -F -l -c -b -B -h -w";

/// Every row.
pub(super) const WRAPPERS: &[Wrapper] = &[
    // ------------------------------------------------------------------------------------------ shells ----
    // POSIX sh(1); bash(1), OPTIONS; dash(1); zshoptions(1); mksh(1).
    wrapper(
        &["sh", "bash", "rbash", "dash", "ash", "zsh", "ksh", "ksh93", "mksh", "yash"],
        "-o -O --rcfile --init-file",
    )
    .rest(Rest::AfterC),
    // fish(1).
    wrapper(&["fish"], "-d --debug -o --debug-output -f --features")
        .scripts("-c --command -C --init-command")
        .nothing_else(),
    // bash(1), SHELL BUILTIN COMMANDS: inside another shell's text. `eval` joins its words, `trap` has a text first.
    wrapper(&["eval"], "").rest(Rest::Text),
    wrapper(&["exec"], "-a"),
    wrapper(&["command", "builtin"], ""),
    wrapper(&["trap"], "").rest(Rest::Texts),
    // nix-shell(1).
    wrapper(&["nix-shell"], "").scripts("--run --command").nothing_else(),
    // --------------------------------------------------------------------------- environment and limits ----
    // env(1), coreutils. `-S` splits its value into words, and the others follow them.
    wrapper(&["env"], "-u --unset -C --chdir -a --argv0")
        .scripts("-S --split-string")
        .rest(Rest::Environment),
    // timeout(1), nice(1), nohup(1), stdbuf(1), coreutils.
    wrapper(&["timeout"], "-k --kill-after -s --signal").operands(1),
    wrapper(&["nice"], "-n --adjustment"),
    wrapper(&["nohup"], ""),
    wrapper(&["stdbuf"], "-i --input -o --output -e --error"),
    // time(1), GNU; `time` of bash has no option with a value.
    wrapper(&["time"], "-f --format -o --output"),
    // setsid(1), ionice(1), chrt(1), taskset(1), prlimit(1), setarch(8), util-linux. setarch's architecture may be left out.
    wrapper(&["setsid"], ""),
    wrapper(&["ionice"], "-c --class -n --classdata"),
    wrapper(&["chrt"], "-T --sched-runtime -P --sched-period -D --sched-deadline").operands(1),
    wrapper(&["taskset"], "").operands(1),
    wrapper(&["prlimit"], "-o --output"),
    wrapper(&["setarch", "linux32", "linux64"], ""),
    wrapper(&["setarch"], "").operands(1),
    // systemd-inhibit(1).
    wrapper(&["systemd-inhibit"], "--what --who --why --mode"),
    // dbus-run-session(1), ssh-agent(1), xvfb-run(1), fakeroot(1), faketime(1), unbuffer(1), eatmydata(1),
    // torsocks(1), proxychains(1).
    wrapper(&["dbus-run-session"], "--dbus-daemon --config-file"),
    wrapper(&["ssh-agent"], "-a -E -O -P -t"),
    wrapper(
        &["xvfb-run"],
        "-e --error-file -f --auth-file -n --server-num -p --xauth-protocol -s --server-args -w --wait",
    ),
    wrapper(&["fakeroot"], "-l --lib -f --faked -s -i -b"),
    wrapper(&["faketime"], "").operands(1),
    wrapper(&["unbuffer", "eatmydata", "torsocks"], ""),
    wrapper(&["proxychains", "proxychains4"], "-f"),
    // strace(1), ltrace(1), valgrind(1).
    wrapper(
        &["strace"],
        "-a -b -e -E --env -I -o --output -O -p --attach -P --trace-path -s -S -u --user -U -X",
    ),
    wrapper(&["ltrace"], "-a -A -D -e -F -l -n -o -p -s -u -x"),
    wrapper(&["valgrind"], ""),
    // Secrets for one command. aws-vault, "exec"; chamber, "exec"; 1Password CLI, "op run"; Doppler CLI, "doppler
    // run"; Infisical CLI, "infisical run"; dotenv-cli; envchain; direnv(1); mise, "exec".
    wrapper(
        &["aws-vault"],
        "-d --duration -t --mfa-token --region --backend --prompt",
    )
    .subcommands(&["exec"])
    .operands(1),
    wrapper(&["chamber"], "-b --backend -r --retries").subcommands(&["exec"]).operands(1),
    wrapper(&["op"], "--env-file --account --config --session").subcommands(&["run"]),
    wrapper(&["doppler"], "-p --project -c --config -t --token --scope --mount")
        .subcommands(&["run"])
        .scripts("--command"),
    wrapper(&["infisical"], "-e --env --path --projectId --token --domain")
        .subcommands(&["run"])
        .scripts("-c --command"),
    wrapper(&["dotenv"], "-e -f -v"),
    wrapper(&["envchain"], "").operands(1),
    wrapper(&["direnv"], "").subcommands(&["exec"]).operands(1),
    wrapper(&["mise"], "").subcommands(&["exec", "x"]).rest(Rest::BehindDashes),
    // --------------------------------------------------------------------------------- other identities ----
    // sudo(8).
    wrapper(
        &["sudo", "sudo-rs"],
        "-C --close-from -D --chdir -g --group -h --host -p --prompt -R --chroot -r --role -T --command-timeout -t \
         --type -U --other-user -u --user",
    )
    .rest(Rest::Environment),
    // doas(1), pkexec(1).
    wrapper(&["doas"], "-a -C -u"),
    wrapper(&["pkexec"], "--user"),
    // su(1), runuser(1), util-linux: the user, and options behind it too. With `-u` runuser has a command.
    wrapper(
        &["su", "runuser"],
        "-g --group -G --supp-group -s --shell -w --whitelist-environment -u --user",
    )
    .scripts("-c --command --session-command")
    .nothing_else(),
    wrapper(&["runuser"], "-u --user -g --group -G --supp-group"),
    // sg(1): a group, and a text with or without `-c`.
    wrapper(&["sg"], "").scripts("-c").operands(1).rest(Rest::Text),
    // setpriv(1), chroot(8), nsenter(1), unshare(1), lxc-attach(1).
    wrapper(
        &["setpriv"],
        "--reuid --regid --ruid --euid --rgid --egid --groups --inh-caps --ambient-caps --bounding-set --securebits \
         --pdeathsig --selinux-label --apparmor-profile",
    ),
    wrapper(&["chroot"], "--userspec --groups").operands(1),
    wrapper(
        &["nsenter"],
        "-t --target -S --setuid -G --setgid -m? -u? -i? -n? -p? -C? -U? -T? -r? -w? -W",
    ),
    wrapper(
        &["unshare"],
        "-S --setuid -G --setgid -R --root -w --wd --propagation --map-user --map-group --map-users --map-groups \
         --setgroups",
    ),
    wrapper(
        &["lxc-attach"],
        "-n --name -P --lxcpath -f --rcfile -e? -s --namespaces -a --arch -L --pty-log -v --set-var -u --uid -g --gid",
    ),
    // ------------------------------------------------------------------------ again, later, for each input ----
    // xargs(1), findutils; find(1), ACTIONS.
    wrapper(
        &["xargs"],
        "-a --arg-file -d --delimiter -E -I -L -n --max-args -P --max-procs -s --max-chars --process-slot-var -e? -i? -l?",
    ),
    wrapper(&["find", "gfind"], "").rest(Rest::Find),
    // parallel(1), GNU.
    wrapper(
        &["parallel"],
        "-a --arg-file -C --colsep -d --delimiter -D --delay --env --halt -I -j --jobs -P --max-procs --joblog -L \
         --load -M --memfree -n --max-args -N --max-replace-args --results --retries -S --sshlogin --sshloginfile \
         --slf -s --max-chars --tagstring --timeout --tmpdir --workdir --wd",
    )
    .rest(Rest::Parallel),
    // watch(1), procps; entr(1); script(1), flock(1), util-linux: with a text, or a command behind the file.
    wrapper(&["watch"], "-n --interval -q --equexit -s --shotsdir -d?").rest(Rest::Text),
    wrapper(&["entr"], ""),
    wrapper(
        &["script"],
        "-B --log-io -E --echo -I --log-in -m --logging-format -O --log-out -o --output-limit -T --log-timing -t?",
    )
    .scripts("-c --command")
    .nothing_else(),
    wrapper(&["flock"], "-w --wait --timeout -E --conflict-exit-code")
        .scripts("-c --command")
        .operands(1),
    // screen(1): a command in a new screen, the screen's own child.
    wrapper(&["screen"], "-c -e -h -p -S -s -t -T"),
    // --------------------------------------------------------------------------------------- of packages ----
    // npx(1), npm-exec(1); pnpm CLI, "pnpm exec", "pnpm dlx"; Bun, "bunx"; uv, "uvx"; pipx, "pipx run". They execute the
    // package's program by a link or a script of its name, which is judged.
    wrapper(&["npx", "pnpx"], NPM).scripts("-c --call").rest(Rest::Package),
    wrapper(&["npm"], NPM)
        .subcommands(&["exec", "x"])
        .scripts("-c --call")
        .rest(Rest::Package),
    wrapper(&["pnpm"], "-C --dir -F --filter --package")
        .subcommands(&["", "exec", "dlx"])
        .rest(Rest::Package),
    wrapper(&["bunx"], "-p --package").rest(Rest::Package),
    wrapper(&["bun"], "-p --package --cwd").subcommands(&["x"]).rest(Rest::Package),
    wrapper(
        &["uvx"],
        "--from --with --with-editable --with-requirements -p --python --index --index-url --directory --project",
    )
    .rest(Rest::Package),
    wrapper(&["pipx"], "--spec --python --pip-args -i --index-url")
        .subcommands(&["run"])
        .rest(Rest::Package),
    // Poetry, "run"; pipenv, "run"; PDM, "run"; Hatch, "run"; Rye, "run"; conda, "run"; Railway CLI, "run".
    wrapper(
        &["poetry", "pipenv", "pdm", "hatch", "rye", "conda", "mamba", "micromamba"],
        "-n --name -p --prefix -C --directory --cwd -e --env",
    )
    .subcommands(&["run"]),
    wrapper(&["railway"], "-s --service -e --environment -p --project").subcommands(&["run"]),
    // Yarn 2 and later runs a package's file under its own name (`vc.js`), or within itself; Deno, "npm: specifiers",
    // and Corepack run it within themselves; so does bundle-exec(1) with a script in Ruby (`Kernel.load`).
    wrapper(&["yarn", "yarnpkg"], "-p --package --cwd")
        .subcommands(&["", "dlx", "exec", "run"])
        .rest(Rest::Package)
        .elsewhere(),
    wrapper(&["deno"], "-c --config --import-map --cert --location -L --log-level")
        .subcommands(&["run"])
        .rest(Rest::Package)
        .elsewhere(),
    wrapper(&["corepack"], "").rest(Rest::Package).elsewhere(),
    wrapper(&["bundle", "bundler"], "--gemfile")
        .subcommands(&["exec"])
        .elsewhere(),
    // ------------------------------------------------------------------------- in the program's own process ----
    // busybox(1), toybox(1): applets are functions; those of `busybox sh` may be too (FEATURE_SH_STANDALONE).
    wrapper(&["busybox", "toybox"], "").elsewhere(),
    // K3s, "k3s kubectl"; MicroK8s, "microk8s kubectl"; minikube, "kubectl".
    wrapper(&["k3s", "microk8s", "minikube"], "").elsewhere(),
    // --------------------------------------------------------------------------------- other machines ----
    // ssh(1): "the command and its arguments are joined and given to the remote user's shell".
    wrapper(&["ssh", "dbclient"], SSH)
        .operands(1)
        .rest(Rest::Text)
        .elsewhere(),
    // autossh(1), sshpass(1): they execute ssh. mosh(1) executes it with a command line of its own.
    wrapper(&["autossh"], SSH).operands(1).rest(Rest::Text),
    wrapper(&["sshpass"], "-p -f -d -P"),
    wrapper(&["mosh"], "-p --port --client --server --predict --ssh --bind-server")
        .operands(1)
        .elsewhere(),
    // ansible(1): arguments of the module, which may be a command. The names of hosts come before or behind.
    wrapper(
        &["ansible"],
        "-i --inventory -m --module-name -u --user -e --extra-vars -f --forks -l --limit -t --tree -T --timeout -c \
         --connection -B --background -P --poll --become-method --become-user --private-key --key-file",
    )
    .scripts("-a --args")
    .nothing_else()
    .elsewhere(),
    // Google Cloud CLI, "compute ssh"; Vagrant, "ssh": they execute ssh.
    wrapper(&["gcloud"], "--project --account --zone --configuration")
        .subcommands(&["compute ssh"])
        .scripts("--command")
        .nothing_else(),
    wrapper(&["vagrant"], "").subcommands(&["ssh"]).scripts("-c --command").nothing_else(),
    // Fly.io, "ssh console", "machine exec"; Heroku CLI, "run"; Railway CLI, "ssh".
    wrapper(&["fly", "flyctl"], "-a --app -c --config -o --org -r --region -u --user --machine --container")
        .subcommands(&["ssh console"])
        .scripts("-C --command")
        .nothing_else()
        .elsewhere(),
    wrapper(&["fly", "flyctl"], "-a --app -c --config --timeout --container")
        .subcommands(&["machine exec", "m exec", "machines exec"])
        .operands(1)
        .rest(Rest::Text)
        .elsewhere(),
    wrapper(&["heroku"], "-a --app -r --remote -s --size -e --env --type")
        .subcommands(&["run", "run:detached", "run:inside"])
        .rest(Rest::Text)
        .elsewhere(),
    wrapper(&["railway"], "-s --service -e --environment -p --project -d --deployment-instance")
        .subcommands(&["ssh"])
        .rest(Rest::Text)
        .elsewhere(),
    // AWS CLI, "ecs execute-command"; Azure CLI, "az containerapp exec", "az container exec", "az vm run-command invoke".
    wrapper(&["aws"], "--profile --region --output --endpoint-url")
        .subcommands(&["ecs execute-command"])
        .scripts("--command")
        .nothing_else()
        .elsewhere(),
    wrapper(&["az"], "")
        .subcommands(&[
            "containerapp exec",
            "container exec",
            "vm run-command invoke",
            "vmss run-command invoke",
        ])
        .scripts("--command --exec-command --scripts")
        .nothing_else()
        .elsewhere(),
    // ------------------------------------------------------------------------ containers, other daemons ----
    // docker-exec(1), podman-exec(1), nerdctl; docker-container-run(1); docker compose.
    wrapper(&["docker", "podman", "nerdctl"], CONTAINER)
        .subcommands(&["exec", "container exec"])
        .operands(1)
        .elsewhere(),
    wrapper(&["docker", "podman", "nerdctl"], CONTAINER)
        .subcommands(&["run", "container run", "create", "container create"])
        .scripts("--entrypoint")
        .rest(Rest::Image)
        .elsewhere(),
    wrapper(&["docker", "podman", "nerdctl"], COMPOSE)
        .subcommands(&["compose exec", "compose run"])
        .operands(1)
        .elsewhere(),
    wrapper(&["docker-compose", "podman-compose"], COMPOSE)
        .subcommands(&["exec", "run"])
        .operands(1)
        .elsewhere(),
    // crictl(8), "exec"; ctr, "tasks exec"; lxc and incus, "exec"; multipass, "exec"; Nomad, "alloc exec".
    wrapper(&["crictl"], "-c --config -r --runtime-endpoint -t --timeout --transport")
        .subcommands(&["exec"])
        .operands(1)
        .elsewhere(),
    wrapper(&["ctr"], "-a --address -n --namespace --exec-id --cwd --user --log-uri --fifo-dir")
        .subcommands(&["tasks exec", "task exec", "t exec"])
        .operands(1)
        .elsewhere(),
    wrapper(&["lxc", "incus"], "--project --cwd --env --group --mode --user")
        .subcommands(&["exec"])
        .operands(1)
        .elsewhere(),
    wrapper(&["multipass"], "-d --working-directory")
        .subcommands(&["exec"])
        .operands(1)
        .elsewhere(),
    wrapper(&["nomad"], "-address -region -namespace -token -task -e")
        .subcommands(&["alloc exec", "exec"])
        .operands(1)
        .elsewhere(),
    // kubectl, "exec", "run", "debug"; OpenShift CLI, "oc rsh".
    wrapper(&["kubectl", "oc"], KUBECTL)
        .subcommands(&["exec", "rsh"])
        .operands(1)
        .elsewhere(),
    wrapper(&["kubectl", "oc"], KUBECTL)
        .subcommands(&["run", "debug"])
        .rest(Rest::BehindDashes)
        .elsewhere(),
    // systemd-run(1), run0(1): the service manager executes it. machinectl(1), "shell". flatpak-spawn(1), `--host`.
    wrapper(
        &["systemd-run"],
        "-H --host -M --machine -C --capsule -u --unit -p --property --description --slice --service-type --uid --gid \
         --nice --working-directory -E --setenv --path-property --socket-property --timer-property --on-active --on-boot \
         --on-startup --on-unit-active --on-unit-inactive --on-calendar --background",
    )
    .elsewhere(),
    wrapper(
        &["run0"],
        "-u --user -g --group -M --machine -D --chdir --unit --property --description --slice --slice-inherit --nice \
         --setenv --background --shell-prompt-prefix",
    )
    .elsewhere(),
    wrapper(&["machinectl"], "-H --host -M --machine -E --setenv --uid")
        .subcommands(&["shell"])
        .operands(1)
        .elsewhere(),
    wrapper(&["flatpak-spawn"], "").elsewhere(),
    // tmux(1): its server executes it, or types it. screen(1), "stuff".
    wrapper(&["tmux"], TMUX)
        .subcommands(&[
            "new-session", "new", "new-window", "neww", "split-window", "splitw", "respawn-pane", "respawnp",
            "respawn-window", "respawnw", "run-shell", "run", "display-popup", "popup",
        ])
        .rest(Rest::Text)
        .elsewhere(),
    wrapper(&["tmux"], "-L -S -f -T -t -N")
        .subcommands(&["send-keys", "send"])
        .rest(Rest::Texts)
        .elsewhere(),
    wrapper(&["screen"], "-c -e -h -p -S -s -t -T")
        .subcommands(&["stuff"])
        .rest(Rest::Texts)
        .elsewhere(),
];
