//! What the kernel tells, made into facts of sessions and into events.

use std::{collections::BTreeSet, path::Path};

use guard_common::{
    Verdict,
    event::{
        self as record, FLAG_GATED, FLAG_SPINS, FLAG_STOPPED, FLAG_UNSCANNED, Header, kind, tier,
    },
    state::{act, own},
};
use rustix::process::Signal;

use super::{Engine, Known, holds::object_of};
use crate::{
    clock,
    event::{Event, Kind},
    kernel::Connection,
    mask,
    process::{self, Id},
};

impl Engine {
    /// An event with what every record has.
    pub(super) fn event_of(&self, kind: Kind, fields: &Header) -> Event {
        let mut event = self.event_for(kind, Some(fields.session));
        event.time = clock::rfc3339_at(fields.time_ns);
        event.mono_ns = Some(fields.time_ns);
        event.pid = Some(fields.pid);
        event.tgid = Some(fields.tgid);
        event.ppid = (fields.ppid != 0).then_some(fields.ppid);
        event.uid = Some(fields.uid);
        let comm = fields
            .comm
            .split(|&byte| byte == 0)
            .next()
            .unwrap_or_default();
        event.comm = Some(String::from_utf8_lossy(comm).into_owned());
        event.start = Some(Id::new(fields.tgid, fields.start_ns).start);
        event.labels = self.labels_for(fields.session, fields.labels);
        event.tier = tier::NAMES
            .get(usize::from(fields.tier))
            .map(|name| (*name).to_owned());
        event.latency_ns = (fields.latency_ns != 0).then(|| fields.latency_ns.into());
        self.describe_process(&mut event, fields.tgid, fields.start_ns);
        self.add_verdict(&mut event, fields);
        event
    }

    fn add_verdict(&self, event: &mut Event, fields: &Header) {
        event.verdict = Some(Verdict::from_u8(fields.verdict).name().into());
        if fields.would > fields.verdict {
            event.would = Some(Verdict::from_u8(fields.would).name().into());
        }
        if fields.rule != record::NO_RULE {
            event.rule = self
                .rule_of(fields.rule, fields.generation)
                .map(|rule| rule.name.clone());
        }
    }

    /// Program and command line, from the exec that was seen or else from /proc.
    pub(super) fn describe_process(&self, event: &mut Event, tgid: u32, start_ns: u64) {
        let start = Id::new(tgid, start_ns).start;
        if let Some(known) = self.known.get(&tgid).filter(|known| known.start == start) {
            event.exe.clone_from(&known.exe);
            event.argv = Some(known.argv.clone());
        } else if process::same(tgid, start_ns).is_some() {
            event.exe = process::exe(tgid).map(|path| path.to_string_lossy().into_owned());
            let argv = process::argv(tgid);
            if !argv.is_empty() {
                event.argv = Some(mask::mask_argv(&argv));
            }
        }
    }

    /// Makes a labelled call a fact of its session and of those around it.
    pub(super) fn touch(&mut self, fields: &Header, event: &Event) {
        if event.labels.is_empty() {
            return;
        }
        let object = object_of(event);
        let mut next = Some(fields.session);
        while let Some(id) = next {
            let Some(session) = self.sessions.get_mut(&id) else {
                break;
            };
            session.touch(fields.time_ns, &event.labels, Some(&object), event);
            next = session.parent;
        }
        self.dirty = true;
    }

    pub(super) fn on_exec(&mut self, fields: &Header, exe: Option<&Path>, argv: &[Vec<u8>]) {
        let masked = mask::mask_argv(argv);
        let exe_text = exe.map(|path| path.to_string_lossy().into_owned());
        let id = Id::new(fields.tgid, fields.start_ns);
        self.forget_some();
        self.untap(fields.tgid);
        self.known.insert(
            fields.tgid,
            Known {
                start: id.start,
                exe: exe_text.clone(),
                argv: masked.clone(),
            },
        );
        let mut event = self.event_of(Kind::Exec, fields);
        event.exe = exe_text;
        event.argv = Some(masked.clone());
        let mut object = serde_json::Map::new();
        object.insert("argv".into(), masked.into());
        let cwd =
            process::same(fields.tgid, fields.start_ns).and_then(|_| process::cwd(fields.tgid));
        if let Some(cwd) = cwd {
            object.insert("cwd".into(), cwd.to_string_lossy().into());
        }
        event.object = Some(object.into());
        if fields.flags & FLAG_GATED == 0 {
            self.tell(event);
            return;
        }
        self.judge_command(fields, exe, argv, event);
    }

    /// A label names command lines of this program: judges this one, and carries the verdict out
    /// before the program's first instruction.
    fn judge_command(
        &mut self,
        fields: &Header,
        exe: Option<&Path>,
        argv: &[Vec<u8>],
        mut event: Event,
    ) {
        let id = Id::new(fields.tgid, fields.start_ns);
        // It may be an agent as well; then its session must be there before it goes on.
        if fields.flags & (FLAG_STOPPED | FLAG_SPINS) != 0 {
            self.look_at_candidate(id, fields.session, false);
        }
        let words: Vec<String> = argv
            .iter()
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let excepted = self
            .kernel
            .tables
            .task(fields.tgid)
            .map_or(0, |task| task.excepted);
        let mut labels = 0;
        for index in self.command_groups(fields.tgid, exe, &words) {
            let Some(group) = self.policy.groups.get(index) else {
                continue;
            };
            if group.mask() & excepted == 0 && self.is_for(fields.session, group.user) {
                labels |= self.bits.mask(&group.name);
            }
        }
        if labels == 0 {
            self.tell(event);
            self.let_go_on(id);
            return;
        }
        let judged = self.feed(fields.session, labels, fields.tgid, false, fields.kind);
        self.note_judged(&mut event, &judged, judged.verdict, labels);
        event.latency_ns = Some(clock::monotonic_ns().saturating_sub(fields.time_ns));
        if self.carry_out_on(fields, &judged, judged.verdict, event) {
            self.let_go_on(id);
        } else {
            // It waits for a person now, or for nobody.
            self.kernel.tables.drop_waiting(id.pid);
        }
    }

    /// Label tables that name this command line, by whichever of its names: the file that runs, the
    /// path that was executed (a link, perhaps), or what it calls itself.
    fn command_groups(&self, tgid: u32, exe: Option<&Path>, words: &[String]) -> BTreeSet<usize> {
        let mut groups: BTreeSet<usize> = self.commands.labels_of(exe, words).into_iter().collect();
        groups.extend(self.commands.labels(words));
        if let Some(executed) = process::executed_path(tgid) {
            let executed = String::from_utf8_lossy(&executed).into_owned();
            groups.extend(self.commands.labels_of(Some(Path::new(&executed)), words));
        }
        groups
    }

    pub(super) fn on_path(
        &mut self,
        fields: &Header,
        path: Option<&Path>,
        ino: u64,
        dev: u32,
        flags: u32,
    ) {
        if fields.flags & FLAG_UNSCANNED != 0 {
            return self.look_into(fields, path, ino, dev, flags);
        }
        let connect = fields.kind == kind::CONNECT;
        let mut event = self.event_of(if connect { Kind::Connect } else { Kind::Open }, fields);
        let mut object = serde_json::Map::new();
        if let Some(path) = path {
            object.insert("path".into(), path.to_string_lossy().into());
        }
        if connect {
            object.insert("family".into(), "unix".into());
        }
        object.insert(
            "dev".into(),
            format!("{}:{}", dev >> 20, dev & 0xf_ffff).into(),
        );
        object.insert("ino".into(), ino.into());
        if !connect {
            object.insert("flags".into(), open_flags(flags).into());
            self.secrets.describe(dev, ino, &mut object);
        }
        event.object = Some(object.into());
        // Another user's label alone: that this session has opened the file is nothing to it.
        if event.labels.is_empty() && fields.labels != 0 && fields.would == 0 {
            return;
        }
        if connect && fields.labels & self.tables.followed != 0 {
            // The server may have come since these were looked for.
            self.find_new_containers();
        }
        let event = self.tell(event);
        self.touch(fields, &event);
        self.hold_from(fields, event, None);
    }

    pub(super) fn on_connect(&mut self, fields: &Header, to: &Connection) {
        let mut event = self.event_of(Kind::Connect, fields);
        event.object = Some(self.place_of(to).into());
        if event.labels.is_empty() && fields.verdict == 0 && !self.may_tell_connect() {
            return;
        }
        let event = self.tell(event);
        self.touch(fields, &event);
        if fields.flags & record::FLAG_SIGNAL_NEEDED != 0 && fields.verdict == Verdict::Kill as u8 {
            let _ = process::signal(Id::new(fields.tgid, fields.start_ns), Signal::KILL);
        }
        self.hold_from(fields, event, None);
    }

    pub(super) fn on_call(&mut self, fields: &Header, act: u32, target: u32, number: u64) {
        let signal = fields.kind == kind::SIGNAL;
        let mut event = self.event_of(if signal { Kind::Signal } else { Kind::Call }, fields);
        let mut object = serde_json::Map::new();
        let name = act::NAMES.get(act as usize).copied().unwrap_or_default();
        object.insert("call".into(), name.into());
        // To everybody (kill(2) with -1) is to nobody in particular.
        if target as i32 > 0 {
            object.insert("target".into(), target.into());
        }
        if signal {
            object.insert("signal".into(), (number as u32).into());
        } else if act == act::BPF {
            object.insert("command".into(), (number as u32).into());
        } else if act == act::OTHER_SOCKET {
            object.insert("family".into(), (number as u32).into());
        } else if act == act::GUARD_FILES {
            let (what, ino) = (number & ((1 << own::SHIFT) - 1), number >> own::SHIFT);
            let what = own::NAMES.get(what as usize).copied().unwrap_or_default();
            object.insert("what".into(), what.into());
            // Two file systems may have that number; then it is none that could be named.
            if let Some([path]) = self.own_files.get(&ino).map(Vec::as_slice) {
                object.insert("path".into(), path.to_string_lossy().into());
            }
        }
        event.object = Some(object.into());
        let event = self.tell(event);
        self.touch(fields, &event);
        self.hold_from(fields, event, None);
    }

    pub(super) fn hold_from(&mut self, fields: &Header, event: Event, cookie: Option<u64>) {
        if fields.verdict != Verdict::Hold as u8 {
            return;
        }
        let held = self
            .kernel
            .tables
            .held()
            .into_iter()
            .find(|(tgid, held)| *tgid == fields.tgid && held.start_ns == fields.start_ns);
        if let Some((tgid, held)) = held {
            self.take_up_hold(tgid, &held, fields.flags, fields.judged_in, event, cookie);
        }
    }

    /// Keeps the table of seen programs within bounds: those that are gone go first.
    pub(super) fn forget_some(&mut self) {
        const ROOM: usize = 16_384;
        if self.known.len() < ROOM {
            return;
        }
        let alive: std::collections::HashSet<u32> = self
            .kernel
            .tables
            .tasks()
            .into_iter()
            .map(|(pid, _)| pid)
            .collect();
        self.known.retain(|pid, _| alive.contains(pid));
    }
}

/// `O_RDWR|O_CREAT` and so on.
pub(super) fn open_flags(flags: u32) -> String {
    const NAMES: [(i32, &str); 9] = [
        (libc::O_CREAT, "O_CREAT"),
        (libc::O_EXCL, "O_EXCL"),
        (libc::O_TRUNC, "O_TRUNC"),
        (libc::O_APPEND, "O_APPEND"),
        (libc::O_NONBLOCK, "O_NONBLOCK"),
        (libc::O_DIRECTORY, "O_DIRECTORY"),
        (libc::O_NOFOLLOW, "O_NOFOLLOW"),
        (libc::O_CLOEXEC, "O_CLOEXEC"),
        (libc::O_DIRECT, "O_DIRECT"),
    ];
    let mode = match flags as i32 & libc::O_ACCMODE {
        libc::O_WRONLY => "O_WRONLY",
        libc::O_RDWR => "O_RDWR",
        _ => "O_RDONLY",
    };
    NAMES
        .iter()
        .filter(|(bit, _)| flags as i32 & bit != 0)
        .fold(mode.to_owned(), |text, (_, name)| text + "|" + name)
}
