//! What a container daemon runs because a session asked for it. These are real daemons, of the test's own.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use guard_tests::{
    Guard, Place, Policy, Tool, containers::Containers, eventually, has_program, let_pass,
};

const SECRET: &str = "hunter2-inside-a-container";
/// After what time nothing is taken for a session's that is connected no more, and some time for a loaded machine.
const AFTERWARDS: Duration = Duration::from_millis(3500);

struct Scene {
    place: Place,
    servers: Containers,
    guard: Guard,
}

impl Scene {
    /// Both daemons are followed, and nobody may open the secret. `None` where something is missing.
    fn new(dockers: bool) -> Option<Self> {
        let place = Place::new();
        let servers = Containers::start(&place, dockers)?;
        let secret = place.file("secret", SECRET);
        let broker = format!(
            "[[label]]\nname = \"broker\"\naddresses = [\"unix:{}\", \"unix:{}\"]\nfollow = true\n",
            servers.containerd_socket().display(),
            servers.docker_socket().display(),
        );
        let policy = Policy::new()
            .files("secret", &[secret.display()])
            .and(&broker)
            .rule("r-secret", &["secret"], "deny", "");
        let guard = Guard::new(&place, &policy);
        Some(Self {
            place,
            servers,
            guard,
        })
    }

    /// A script that reads the secret, once by itself and once by a process that nobody waits for.
    fn job(&self, name: &str) -> Job {
        let out = self.place.path(format!("{name}.out"));
        let text = format!(
            "#!/bin/sh\ncat {0} >>{1}.part 2>&1\n(setsid cat {0} >>{1}.part 2>&1; mv {1}.part {1}) &\nwait\n",
            self.place.path("secret").display(),
            out.display()
        );
        let script = self.place.script(name, &text);
        Job { script, out }
    }

    /// Whether something outside sessions that is done by a daemon reads the secret.
    #[track_caller]
    fn reads_for_nobody(&self, line: &str, job: &Job) -> bool {
        let output = self.servers.command(line).output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        job.reads()
    }

    #[track_caller]
    fn asks(&self, agent: &mut Tool, line: &str) {
        let answer = agent.must(&format!("run {line}"));
        assert_eq!(answer["status"], 0, "{line}: {answer}");
    }
}

struct Job {
    script: PathBuf,
    out: PathBuf,
}

impl Job {
    /// Whether it has read the secret, once it is over; it can be run again then.
    #[track_caller]
    fn reads(&self) -> bool {
        let said = eventually("the job is over", || fs::read_to_string(&self.out).ok());
        fs::remove_file(&self.out).unwrap();
        said.contains(SECRET)
    }

    fn path(&self) -> &Path {
        &self.script
    }
}

#[test]
fn what_a_session_has_containerd_run_belongs_to_it() {
    let Some(scene) = Scene::new(false) else {
        return;
    };
    let (ctr, job) = (scene.servers.ctr(), scene.job("job"));
    let fifos = scene.servers.fifos();
    let run = |id: &str| {
        let options = scene.servers.ctr_options(id);
        format!(
            "{ctr} run --rm {fifos} {options} /bin/sh {}",
            job.path().display()
        )
    };
    assert!(scene.reads_for_nobody(&run("before"), &job));
    let mut events = scene.guard.events();
    let mut agent = scene.guard.tool();
    let session = scene.guard.session_of(agent.pid()).unwrap();
    // It has asked for nothing yet.
    assert!(scene.reads_for_nobody(&run("meanwhile"), &job));

    scene.asks(&mut agent, &run("asked"));
    let followed = events.wait("it is followed", |event| {
        event["object"]["what"] == "followed"
    });
    assert_eq!(followed.session(), session);
    assert_eq!(followed["object"]["container"], "asked");
    assert!(!job.reads());
    let refused = events.wait("it is refused", |event| event["rule"] == "r-secret");
    assert_eq!(refused.session(), session);

    // What is made now and started by another client.
    let options = scene.servers.ctr_options("later");
    scene.asks(
        &mut agent,
        &format!(
            "{ctr} containers create {options} /bin/sh {}",
            job.path().display()
        ),
    );
    let_pass(AFTERWARDS);
    scene.asks(&mut agent, &format!("{ctr} tasks start {fifos} later"));
    assert!(!job.reads());

    // Not for ever.
    let_pass(AFTERWARDS);
    assert!(scene.reads_for_nobody(&run("after"), &job));
    // One event for each container: the machinery is nobody's.
    let containers: Vec<_> = scene
        .guard
        .events_now()
        .into_iter()
        .filter(|event| event["object"]["what"] == "followed")
        .map(|event| event["object"]["container"].clone())
        .collect();
    assert_eq!(containers, ["asked", "later"]);
}

#[test]
fn what_a_session_has_executed_in_somebody_elses_container_belongs_to_it_and_that_stays_nobodys() {
    let Some(scene) = Scene::new(false) else {
        return;
    };
    let (ctr, job) = (scene.servers.ctr(), scene.job("job"));
    let fifos = scene.servers.fifos();
    let theirs = scene.servers.ctr_options("theirs");
    let pid_file = scene.place.path("theirs.pid");
    let begin = format!(
        "{ctr} run {fifos} --detach --pid-file {} {theirs} /bin/sleep 600 </dev/null >/dev/null 2>&1",
        pid_file.display()
    );
    assert!(scene.servers.command(&begin).status().unwrap().success());
    let mut agent = scene.guard.tool();
    let session = scene.guard.session_of(agent.pid()).unwrap();
    let exec = |id: &str| {
        format!(
            "{ctr} tasks exec {fifos} --exec-id {id} theirs /bin/sh {}",
            job.path().display()
        )
    };
    let mut events = scene.guard.events();
    scene.asks(&mut agent, &exec("one"));
    assert!(!job.reads());
    let followed = events.wait("it is followed", |event| {
        event["object"]["what"] == "followed"
    });
    assert_eq!(followed.session(), session);
    let_pass(AFTERWARDS);
    // Its own, and what others execute there.
    assert!(scene.reads_for_nobody(&exec("two"), &job));
    let status = scene
        .servers
        .command(&format!("{ctr} tasks ls | grep -q 'theirs.*RUNNING'"));
    assert!({ status }.status().unwrap().success());
    let tasks = scene.guard.json(&["show", &session])["tree"].clone();
    assert!(!tasks.to_string().contains("600"), "{tasks}");
}

#[test]
fn a_sessions_container_stays_its_own_but_for_who_sits_at_a_terminal_in_it() {
    let Some(scene) = Scene::new(false) else {
        return;
    };
    if !has_program("script") {
        return;
    }
    let (ctr, job, other) = (scene.servers.ctr(), scene.job("job"), scene.job("other"));
    let fifos = scene.servers.fifos();
    let mut agent = scene.guard.tool();
    let session = scene.guard.session_of(agent.pid()).unwrap();
    let waits = scene.place.script(
        "waits",
        &format!(
            "#!/bin/sh\nwhile [ ! -e {} ]; do sleep 0.1; done\nexec {}\n",
            scene.place.path("go").display(),
            job.path().display()
        ),
    );
    // Its output is a pipe that nobody but the container would close.
    let start = scene.place.script(
        "start",
        &format!(
            "#!/bin/sh\n{ctr} run {fifos} --detach {} /bin/sh -c '{}; exec sleep 600' </dev/null >/dev/null 2>&1\n",
            scene.servers.ctr_options("its"),
            waits.display()
        ),
    );
    scene.asks(&mut agent, &start.display().to_string());
    agent.finish();
    let_pass(AFTERWARDS);
    // The session lives as long as its container.
    assert!(
        scene
            .guard
            .sessions()
            .iter()
            .any(|it| it["id"] == session.as_str())
    );
    // A check of its health, as far as can be known.
    let exec = format!(
        "{ctr} tasks exec {fifos} --exec-id check its /bin/sh {}",
        other.path().display()
    );
    assert!(!scene.reads_for_nobody(&exec, &other));
    // A person.
    let exec = format!(
        "script --quiet --return --command '{ctr} tasks exec {fifos} --tty --exec-id person its /bin/sh {}' /dev/null </dev/null >/dev/null",
        other.path().display()
    );
    assert!(scene.reads_for_nobody(&exec, &other));
    fs::write(scene.place.path("go"), "").unwrap();
    assert!(!job.reads());
}

#[test]
fn while_a_session_is_connected_what_is_started_counts_as_its_own() {
    let Some(scene) = Scene::new(false) else {
        return;
    };
    let (ctr, job) = (scene.servers.ctr(), scene.job("job"));
    let fifos = scene.servers.fifos();
    let mut agent = scene.guard.tool();
    // The connection is in the hands of a process that has not made it, and that one has gone.
    let holder = scene.place.script(
        "holder.py",
        &format!(
            "#!/usr/bin/env python3\nimport os, socket, time\ns = socket.socket(socket.AF_UNIX)\n\
             s.connect('{}')\nif os.fork() == 0:\n    os.setsid()\n    open('{}', 'w').close()\n    time.sleep(600)\n",
            scene.servers.containerd_socket().display(),
            scene.place.path("held").display(),
        ),
    );
    agent.must(&format!("spawn {}", holder.display()));
    eventually("the connection is held", || {
        scene.place.path("held").exists().then_some(())
    });
    let_pass(AFTERWARDS);
    let run = format!(
        "{ctr} run --rm {fifos} {} /bin/sh {}",
        scene.servers.ctr_options("whose"),
        job.path().display()
    );
    assert!(!scene.reads_for_nobody(&run, &job));
}

#[test]
fn a_program_that_a_session_makes_pass_for_a_runtime_belongs_to_it() {
    let Some(scene) = Scene::new(false) else {
        return;
    };
    let (ctr, job) = (scene.servers.ctr(), scene.job("job"));
    let fifos = scene.servers.fifos();
    let mut events = scene.guard.events();
    let mut agent = scene.guard.tool();
    // By its name a part of the machinery, and no container around it.
    let dir = scene.place.path("bin");
    fs::create_dir(&dir).unwrap();
    let shell = dir.join("runc");
    scene.asks(&mut agent, &format!("cp /bin/sh {}", shell.display()));
    let false_one = dir.join("false");
    fs::write(
        &false_one,
        format!(
            "#!{}\n. {}\nexit 1\n",
            shell.display(),
            job.path().display()
        ),
    )
    .unwrap();
    scene.asks(&mut agent, &format!("chmod 755 {}", false_one.display()));
    let answer = agent.must(&format!(
        "run {ctr} run --rm {fifos} --runc-binary {} {} /bin/true",
        false_one.display(),
        scene.servers.ctr_options("none")
    ));
    assert_ne!(answer["status"], 0, "{answer}");
    events.wait("it is followed", |event| {
        event["object"]["what"] == "followed"
    });
    assert!(!job.reads());
}

#[test]
fn what_a_session_has_dockerd_run_belongs_to_it() {
    let Some(scene) = Scene::new(true) else {
        return;
    };
    let (docker, job) = (scene.servers.docker(), scene.job("job"));
    let mut events = scene.guard.events();
    let options = scene.servers.docker_options();
    let script = job.path().display();
    let named = |name: &str| format!("--name {name} {options}");
    // A container that somebody has made and that runs, and one that has ended.
    let old = format!("{docker} run {} box /bin/sh {script}", named("old"));
    assert!(scene.reads_for_nobody(&old, &job));
    let theirs = format!(
        "{docker} run --detach {} box /bin/sleep 600",
        named("theirs")
    );
    assert!(
        scene
            .servers
            .command(&theirs)
            .output()
            .unwrap()
            .status
            .success()
    );

    let mut agent = scene.guard.tool();
    let session = scene.guard.session_of(agent.pid()).unwrap();
    scene.asks(
        &mut agent,
        &format!("{docker} run --rm {options} box /bin/sh {script}"),
    );
    assert!(!job.reads());
    let followed = events.wait("it is followed", |event| {
        event["object"]["what"] == "followed"
    });
    assert_eq!(followed.session(), session);
    scene.asks(
        &mut agent,
        &format!("{docker} run --detach --rm {options} box /bin/sh {script}"),
    );
    assert!(!job.reads());
    scene.asks(
        &mut agent,
        &format!("{docker} exec theirs /bin/sh {script}"),
    );
    assert!(!job.reads());
    scene.asks(&mut agent, &format!("{docker} start old"));
    assert!(!job.reads());
    scene.asks(
        &mut agent,
        &format!("{docker} create {} box /bin/sh {script}", named("later")),
    );
    scene.asks(&mut agent, &format!("{docker} start later"));
    assert!(!job.reads());
    let_pass(AFTERWARDS);
    let exec = format!("{docker} exec theirs /bin/sh {script}");
    assert!(scene.reads_for_nobody(&exec, &job));
    let run = format!("{docker} run --rm {options} box /bin/sh {script}");
    assert!(scene.reads_for_nobody(&run, &job));
}

#[test]
fn what_dockerd_starts_again_or_checks_in_a_sessions_container_belongs_to_it() {
    let Some(scene) = Scene::new(true) else {
        return;
    };
    let (docker, job, check) = (scene.servers.docker(), scene.job("job"), scene.job("check"));
    let mut agent = scene.guard.tool();
    let options = scene.servers.docker_options();
    let turns = scene.place.path("turns");
    // Each turn is longer than anybody asks.
    let script = scene.place.script(
        "turn",
        &format!(
            "#!/bin/sh\necho turn >>{0}\nsleep 4\n[ $(wc -l <{0}) -lt 2 ] && exit 1\n{1}\nsleep 600\n",
            turns.display(),
            job.path().display()
        ),
    );
    scene.asks(
        &mut agent,
        &format!(
            "{docker} run --detach --restart always {options} box /bin/sh {}",
            script.display()
        ),
    );
    assert!(!job.reads());
    assert_eq!(fs::read_to_string(&turns).unwrap(), "turn\nturn\n");
    scene.asks(
        &mut agent,
        &format!(
            "{docker} run --detach --health-interval 4s --health-cmd {} {options} box /bin/sleep 600",
            check.path().display()
        ),
    );
    assert!(!check.reads());
}
