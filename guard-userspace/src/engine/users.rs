//! Users' own files: taken up with the policy, and again when a session of a user begins whose file has changed.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use serde_json::json;

use super::{Engine, Options, Peer};
use crate::{
    clock,
    event::{Event, Kind},
    policy::{
        Part, Policy, Source,
        users::{Account, Stamp, UserFiles, accounts},
    },
    wire::UserPolicyInfo,
};

/// Between two reloads for the sake of users' files: whoever rewrites one all the time must not keep guardd busy.
const PAUSE: Duration = Duration::from_secs(5);

/// What the engine knows of users' files.
#[derive(Debug, Default)]
pub(super) struct Users {
    accounts: Vec<Account>,
    files: UserFiles,
    /// Somebody's has changed since, and it was too early to look.
    changed: bool,
    /// ns of `CLOCK_MONOTONIC`.
    read_ns: u64,
}

impl Users {
    /// Whether a part of the policy is a user's.
    pub(super) fn is_of_user(&self, part: &Part) -> bool {
        self.owner(part).is_some()
    }

    fn owner(&self, part: &Part) -> Option<u32> {
        let Source::File(path) = &part.source else {
            return None;
        };
        let mut files = self.files.iter();
        files.find(|file| file.path == *path).map(|file| file.uid)
    }
}

/// Adds the users' files to a machine's policy: those of the users who are `present` first, should room be short.
pub(super) fn add(policy: &mut Policy, options: &Options, present: &[u32]) -> Users {
    let mut accounts = accounts(&options.passwd);
    accounts.sort_by_key(|account| (!present.contains(&account.uid), account.uid));
    Users {
        files: policy.add_users(&accounts),
        accounts,
        changed: false,
        read_ns: clock::monotonic_ns(),
    }
}

impl Engine {
    /// Users who have a session.
    pub(super) fn present_users(&self) -> Vec<u32> {
        let live = self.sessions.values().filter(|s| s.ended_ns.is_none());
        live.map(|session| session.uid)
            .collect::<BTreeSet<u32>>()
            .into_iter()
            .collect()
    }

    /// A session of this user begins: what their file says now is to hold for it.
    pub(super) fn look_at_users_file(&mut self, uid: u32) {
        let mut accounts = self.users.accounts.iter();
        let Some(account) = accounts.find(|account| account.uid == uid) else {
            return;
        };
        if self.users.files.differs(account) {
            self.users.changed = true;
            self.take_up_changed_users();
        }
    }

    /// Loads the policy again where a user's file has changed, but not all the time.
    pub(super) fn take_up_changed_users(&mut self) {
        let age = clock::monotonic_ns().saturating_sub(self.users.read_ns);
        if !self.users.changed || self.reloading || age < PAUSE.as_nanos() as u64 {
            return;
        }
        // Whatever comes of it, the next look is later.
        self.users.changed = false;
        self.users.read_ns = clock::monotonic_ns();
        match self.reload_users() {
            Ok(_) => {
                self.problems.remove("users");
            }
            Err(error) => {
                let problem = format!("users' own files are not taken up: {error}");
                tracing::error!("{problem}");
                self.problems.insert("users", problem);
            }
        }
    }

    /// Tells which users' files are left out, once for each time they are read.
    pub(super) fn tell_of_users(&mut self) {
        let left_out: Vec<(u32, String)> = self
            .users
            .files
            .iter()
            .filter_map(|file| Some((file.uid, file.outcome.as_ref().err()?.clone())))
            .collect();
        for (uid, why) in left_out {
            tracing::warn!(uid, "a user's own policy file is left out: {why}");
            let mut event = Event::new(Kind::Policy);
            event.uid = Some(uid);
            event.object = Some(json!({ "what": "user-file-left-out", "uid": uid, "why": why }));
            self.tell(event);
        }
    }

    /// Files of users that are in force, with their inodes.
    pub(super) fn user_files(&self) -> Vec<(PathBuf, Stamp)> {
        let files = self.users.files.iter();
        files
            .filter(|file| file.outcome.is_ok())
            .filter_map(|file| Some((file.path.clone(), file.stamp.clone()?)))
            .collect()
    }

    /// What the user of a session should know of their file: it goes into the session's own events.
    pub(super) fn tell_of_users_file(&mut self, session: u32) -> Option<String> {
        let uid = self.sessions.get(&session)?.uid;
        let why = {
            let mut files = self.users.files.iter();
            let file = files.find(|file| file.uid == uid)?;
            file.outcome.as_ref().err()?.clone()
        };
        let mut event = self.event_for(Kind::Policy, Some(session));
        event.uid = Some(uid);
        event.object = Some(json!({ "what": "user-file-left-out", "uid": uid, "why": why }));
        self.tell(event);
        Some(format!("your own policy file is left out: {why}"))
    }

    /// For `status`.
    pub(super) fn user_policies(&self) -> Vec<UserPolicyInfo> {
        let files = self.users.files.iter();
        files
            .map(|file| UserPolicyInfo {
                user: file.name.clone(),
                uid: file.uid,
                path: file.path.display().to_string(),
                rules: *file.outcome.as_ref().unwrap_or(&0) as u64,
                left_out: file.outcome.as_ref().err().cloned(),
            })
            .collect()
    }

    /// For `status`: the machine's files, where they are several.
    pub(super) fn policy_files(&self) -> Vec<String> {
        let parts = self.policy.parts.iter();
        let files: Vec<String> = parts
            .filter(|part| !self.users.is_of_user(part))
            .map(|part| part.source.to_string())
            .collect();
        if files.len() > 1 { files } else { Vec::new() }
    }

    /// A user's file is for root and that user to read.
    pub(super) fn may_see_part(&self, peer: &Peer, part: &Part) -> bool {
        let owner = self.users.owner(part);
        owner.is_none_or(|uid| peer.privileged || peer.uid == uid)
    }

    /// Whether something that is this user's, or with `None` everybody's, is for a session or one around it.
    pub(super) fn is_for(&self, session: u32, user: Option<u32>) -> bool {
        let Some(user) = user else { return true };
        let mut next = Some(session);
        while let Some(session) = next.and_then(|id| self.sessions.get(&id)) {
            if session.uid == user {
                return true;
            }
            next = session.parent;
        }
        false
    }

    /// The names of labels, without those that are only for other users' sessions.
    pub(super) fn labels_for(&self, session: u32, labels: u64) -> Vec<String> {
        let mut names = self.bits.names(labels);
        names.retain(|name| {
            // Only users' labels have a prefix.
            if !name.contains('/') {
                return true;
            }
            let mut groups = self.policy.groups.iter();
            let user = groups
                .find(|group| group.name == *name)
                .and_then(|group| group.user);
            // One that no policy has any more is nobody's.
            user.is_some() && self.is_for(session, user)
        });
        names
    }
}
