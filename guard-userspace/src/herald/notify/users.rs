//! Which people a hold concerns.

use crate::{approval, wire::HoldInfo};

/// The users of a hold: those whom the settings name, or else the one whose process is held and the one who has
/// logged in for it.
pub(super) fn of(hold: &HoldInfo, named: &[String]) -> Result<Vec<u32>, String> {
    if !named.is_empty() {
        return named
            .iter()
            .map(|name| {
                approval::uid_of(name)
                    .ok_or_else(|| format!("user {name}: there is no such user: correct users"))
            })
            .collect();
    }
    let mut users = vec![hold.uid];
    users.extend(hold.login_uid.filter(|login| *login != hold.uid));
    Ok(users)
}

/// Their names, for people.
pub(super) fn names(users: &[u32]) -> String {
    let names: Vec<String> = users.iter().map(|uid| approval::name_of(*uid)).collect();
    names.join(", ")
}
