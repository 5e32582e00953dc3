//! Agents and command lines.

use std::path::Path;

use super::{super::*, policy};

fn program<'a>(executed: &'a str, argv: &'a [Vec<u8>], env: &'a [u8]) -> Program<'a> {
    Program {
        executed: executed.as_bytes(),
        resolved: None,
        argv,
        env,
    }
}

fn words(line: &str) -> Vec<Vec<u8>> {
    line.split_whitespace()
        .map(|word| word.as_bytes().to_vec())
        .collect()
}

#[test]
fn an_agent_is_recognised_by_path_link_name_script_and_environment() {
    let policy = policy(
        "[[agent]]\nname = \"claude\"\nexe = [\"claude\", \"~/.local/share/claude/versions/*-x\", \"**/claude-code/cli.js\"]\nenv = [\"CLAUDE_CHILD=1\"]\n\
         [[agent]]\nname = \"aider\"\nexe = [\"aider\"]\nenv = [\"AIDER_MARK\", \"WHICH=aider_*\"]\n",
    );
    let matcher = AgentMatcher::new(&policy, &Homes::of(["/home/ann"]));
    let is = |executed: &str, line: &str, env: &[u8]| {
        matcher
            .recognise(&program(executed, &words(line), env))
            .map(|(name, found)| (name.to_owned(), found))
    };
    let some = |name: &str, found| Some((name.to_owned(), found));
    assert_eq!(is("/usr/bin/claude", "x", b""), some("claude", Found::Exe));
    assert_eq!(is("./claude", "x", b""), some("claude", Found::Exe));
    assert_eq!(
        is("/opt/v2", "claude --help", b""),
        some("claude", Found::Exe)
    );
    assert_eq!(
        is("/home/ann/.local/share/claude/versions/2-x", "v", b""),
        some("claude", Found::Exe)
    );
    assert_eq!(
        is("/home/bob/.local/share/claude/versions/2-x", "v", b""),
        None
    );
    assert_eq!(is("/usr/bin/claudette", "claudette", b""), None);
    for line in [
        "node /usr/lib/node_modules/claude-code/cli.js -p",
        "node --no-warnings --require x /usr/lib/node_modules/claude-code/cli.js",
        "bun run /x/claude-code/cli.js",
        "node /usr/bin/claude",
    ] {
        assert_eq!(
            is("/usr/bin/node", line, b""),
            some("claude", Found::Script),
            "{line}"
        );
    }
    for line in [
        "python3.12 -m aider",
        "python -Im aider --x",
        "python3 -W ignore /home/ann/bin/aider",
        "uv tool run --from a aider",
    ] {
        let executed = format!("/usr/bin/{}", line.split(' ').next().unwrap_or_default());
        assert_eq!(
            is(&executed, line, b""),
            some("aider", Found::Script),
            "{line}"
        );
    }
    for line in [
        "bash -c claude",
        "bash -lc claude",
        "node -e 1 claude",
        "cat claude",
        "python3 -c aider",
        "node x.js claude",
    ] {
        let executed = format!("/bin/{}", line.split(' ').next().unwrap_or_default());
        assert_eq!(is(&executed, line, b""), None, "{line}");
    }
    assert_eq!(
        is("/bin/ls", "ls", b"A=b\0CLAUDE_CHILD=1\0"),
        some("claude", Found::Env)
    );
    assert_eq!(
        is("/bin/ls", "ls", b"CLAUDE_CHILD=0\0XCLAUDE_CHILD=1\0"),
        None
    );
    assert_eq!(
        is("/bin/ls", "ls", b"AIDER_MARK=\0"),
        some("aider", Found::Env)
    );
    assert_eq!(
        is("/bin/ls", "ls", b"WHICH=aider_7\0"),
        some("aider", Found::Env)
    );
    assert_eq!(
        is("/bin/aider", "aider", b"CLAUDE_CHILD=1\0"),
        some("aider", Found::Exe)
    );
    let argv = words("v");
    let resolved = Program {
        resolved: Some(Path::new("/opt/claude")),
        ..program("/opt/x", &argv, b"")
    };
    assert_eq!(matcher.recognise(&resolved), Some(("claude", Found::Exe)));
}

#[track_caller]
fn commands(pattern: &str, yes: &[&str], no: &[&str]) {
    let policy = policy(&format!("[[label]]\nname = \"l\"\nargv = ['{pattern}']\n"));
    let matcher = CommandMatcher::new(&policy);
    for (lines, expected) in [(yes, true), (no, false)] {
        for line in lines {
            let argv: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            assert_eq!(
                matcher.labels(&argv) == [0],
                expected,
                "{pattern} on {line}"
            );
        }
    }
}

#[test]
fn command_lines_are_matched_past_their_options() {
    commands(
        "terraform destroy",
        &[
            "terraform destroy",
            "/opt/terraform -chdir=x destroy -auto-approve",
            "terraform -chdir x destroy -target a",
        ],
        &[
            "terraform destroyer",
            "terraform plan destroy",
            "terraform",
            "terraform destroy x",
            "tofu destroy",
        ],
    );
    commands(
        "kubectl delete **",
        &[
            "kubectl delete pod x",
            "kubectl --context prod delete pod x",
            "kubectl -n a --as b delete",
            "kubectl delete -f x",
        ],
        &["kubectl get delete", "kubectl undelete x"],
    );
    commands(
        "kubectl -n * delete **",
        &["kubectl -n prod delete pod x"],
        &["kubectl prod delete pod"],
    );
    commands(
        "git push ** --force **",
        &[
            "git push --force",
            "git -C x push origin main --force",
            "git push --force=1",
        ],
        &[
            "git push",
            "git push --force-with-lease",
            "git push -- --force",
        ],
    );
    commands(
        "rm -rf **",
        &["rm -rf /", "rm -fr /x", "rm -r -f x", "rm -vrf x"],
        &["rm -r x", "rm x"],
    );
    commands(
        "aws * delete-* **",
        &[
            "aws ec2 delete-volume --volume-id v",
            "aws --region x s3api delete-bucket",
        ],
        &["aws ec2 describe"],
    );
    commands(
        "gcloud ** delete **",
        &["gcloud delete", "gcloud compute disks delete d"],
        &["gcloud compute disks"],
    );
    commands(
        "mkfs*",
        &["mkfs", "/sbin/mkfs.ext4 -F"],
        &["mkfs.ext4 /dev/sda"],
    );
    commands(
        "railway volume *",
        &["node /usr/bin/railway volume x", "railway volume x"],
        &["node railway.js volume x", "railway volume x y"],
    );
}

#[test]
fn options_values_and_texts_of_a_command_line_are_matched() {
    commands(
        "m --eval=*drop* **",
        &["m --eval=xdropx", "m x --eval drop", "m --eval drop y"],
        &["m --eval", "m drop", "m --eval x drop", "m -- --eval=drop"],
    );
    commands(
        "gh api ** -X=DELETE",
        &[
            "gh api -X DELETE",
            "gh api x -XDELETE",
            "gh api -X=DELETE x",
        ],
        &["gh api -X GET", "gh api DELETE", "gh api -X"],
    );
    commands(
        "t apply ** -destroy **",
        &["t apply -destroy", "t apply -destroy=true x"],
        &["t apply", "t apply --x -d"],
    );
    commands(
        "p push ** {-f,--force} ** !--dry-run !-n",
        &["p push -f", "p push --force x", "p push -uf"],
        &[
            "p push",
            "p push -fn",
            "p push -f --dry-run",
            "p push --force --dry-run=x",
        ],
    );
    commands(
        "r ** i:FlushAll",
        &["r flushall", "r x FLUSHALL"],
        &["r flushal", "r x"],
    );
}

#[test]
fn the_executed_program_counts_whatever_it_calls_itself() {
    let policy = policy("[[label]]\nname = \"l\"\nargv = ['terraform destroy']\n");
    let matcher = CommandMatcher::new(&policy);
    let argv = ["ls".to_owned(), "destroy".to_owned()];
    assert!(matcher.labels(&argv).is_empty());
    assert_eq!(
        matcher.labels_of(Some(Path::new("/usr/bin/terraform")), &argv),
        [0]
    );
}
