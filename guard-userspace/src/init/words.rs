//! What `init` writes and says.

use std::path::Path;

use super::{Choices, DESKTOP, FoundAgent, TERMINAL};
use crate::{
    clock,
    policy::{Mode, Part, Policy},
    server::GROUP,
};

/// The list of agents that were found, each line after `lead`.
pub(super) fn found(found: &[FoundAgent], lead: &str) -> String {
    if found.is_empty() {
        return format!("{lead}No agent that the policy knows was found on this machine.\n");
    }
    let mut text = format!("{lead}Agents on this machine that the policy knows:\n");
    let width = found.iter().map(|one| one.agent.len()).max().unwrap_or(0);
    for one in found {
        let of = match &one.user {
            Some(user) => format!(" (of {user})"),
            None => String::new(),
        };
        // A path may hold anything, and this becomes a comment.
        let path: String = one
            .program
            .to_string_lossy()
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        text.push_str(&format!("{lead}  {:width$}  {path}{of}\n", one.agent));
    }
    text
}

/// The fragment.
pub(super) fn fragment(choices: &Choices, agents: &[FoundAgent], before: &[Part]) -> String {
    let main = before.first().map_or_else(
        || "the built-in policy".to_owned(),
        |part| match &part.source {
            crate::policy::Source::BuiltIn => "the built-in policy".into(),
            source => source.to_string(),
        },
    );
    let today = clock::rfc3339_now();
    let today = today.split('T').next().unwrap_or_default();
    let mut text = format!(
        "# Written by 'guardctl init' on {today}. It goes with {main}:\n\
         # 'guardctl policy show' prints what they say together, 'guardctl policy check' whether it is right.\n\
         version = 1\n\n"
    );
    text.push_str(match choices.mode {
        Mode::Observe => {
            "# Observe: nothing is touched; what would have been held, denied or killed is recorded, and once a day\n\
             # summed up. Look at 'guardctl digest' after some days, then switch over with 'guardctl enforce'.\n"
        }
        Mode::Enforce => {
            "# Enforce: rules hold, deny and kill from the beginning. 'guardctl observe' goes back to only recording.\n"
        }
    });
    text.push_str(&format!("mode = \"{}\"\n\n", choices.mode.name()));
    text.push_str(&found(agents, "# "));
    text.push_str(
        "# They are recognised wherever they are installed; nothing needs to be said here for them.\n",
    );
    if !choices.agents.is_empty() {
        text.push_str(
            "\n# Programs that are agents here too. Each is recognised by its base name; see docs/policy.md for\n\
             # recognising one by its path, by a script, or by a variable that it sets for what it runs.\n",
        );
    }
    for agent in &choices.agents {
        text.push_str(&format!(
            "[[agent]]\nname = \"{agent}\"\nexe = [\"{agent}\"]\n\n"
        ));
    }
    text.push_str(&format!(
        "\n# Who may answer when an agent is held: root, and the members of the group {GROUP}. That is a matter of the\n\
         # system's groups, not of the policy. Nothing that runs inside an agent's session may, whoever it runs as.\n"
    ));
    if choices.answer.is_empty() {
        text.push_str("# Nobody else was chosen.\n");
    } else {
        text.push_str(&format!("# Chosen: {}.\n", choices.answer.join(", ")));
    }
    if !choices.notify.is_empty() {
        text.push_str(
            "\n# How the session's user is told when something is held. Slack and webhooks, which need an address or a\n\
             # key, are added here too: docs/approval.md.\n",
        );
    }
    for channel in &choices.notify {
        text.push_str(match channel.as_str() {
            TERMINAL => {
                "# Written to every terminal that they are logged in on, with a bell.\n[notify.terminal]\n"
            }
            _ => {
                "# A notification that stays until somebody looks. With answer = true a click answers too, of those who\n\
                 # may answer.\n[notify.desktop]\n"
            }
        });
    }
    text
}

/// What to do after it has been written. `drop_in` is what the service needs to reach desktops, where it is there.
pub(super) fn next_steps(
    choices: &Choices,
    policy: &Policy,
    path: &Path,
    groups: &str,
    drop_in: Option<&Path>,
) -> String {
    let mut text = format!(
        "{}: written; the policy has {} agents and {} rules now\n",
        path.display(),
        policy.agents.len(),
        policy.rules.len()
    );
    if policy.mode != choices.mode {
        text.push_str(&format!(
            "but the mode stays {}: a file that comes later says so; 'guardctl {}' changes that\n",
            policy.mode.name(),
            choices.mode.name()
        ));
    }
    let mut steps = Vec::new();
    let members = members(groups);
    if !choices.answer.is_empty() && members.is_none() {
        steps.push(format!("groupadd --system {GROUP}"));
    }
    for user in &choices.answer {
        if !members.as_ref().is_some_and(|all| all.contains(user)) {
            steps.push(format!(
                "usermod -aG {GROUP} {user}    # it counts from their next login on"
            ));
        }
    }
    if let Some(drop_in) = drop_in.filter(|_| choices.notify.iter().any(|name| name == DESKTOP)) {
        steps.push(format!(
            "install -D -m 644 {} /etc/systemd/system/guard.service.d/desktop.conf    # the service may reach desktops",
            drop_in.display()
        ));
        steps.push("systemctl daemon-reload".into());
    }
    steps.push("systemctl restart guard    # or, where it runs: guardctl policy reload".into());
    steps.push("guardctl doctor            # what guard can do on this machine".into());
    if choices.mode == Mode::Observe {
        steps.push(
            "guardctl digest            # after some days: what would have been stopped".into(),
        );
        steps.push("guardctl enforce           # when that is what you want".into());
    }
    text.push_str("next:\n");
    for step in steps {
        text.push_str(&format!("  {step}\n"));
    }
    text.trim_end().to_owned()
}

/// The members of guard's group, by a group(5) file; `None` where there is no such group.
fn members(groups: &str) -> Option<Vec<String>> {
    let line = groups.lines().find(|line| {
        line.strip_prefix(GROUP)
            .is_some_and(|rest| rest.starts_with(':'))
    })?;
    let members = line.split(':').nth(3).unwrap_or_default();
    Some(
        members
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
    )
}
