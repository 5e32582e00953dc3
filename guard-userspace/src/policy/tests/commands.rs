//! Command lines against the built-in policy, plain and in disguise.

use std::{path::Path, time::Instant};

use proptest::prelude::*;

use super::super::{script, *};

/// The labels that the built-in policy gives a command line, written as for a shell.
fn labels(policy: &Policy, matcher: &CommandMatcher, line: &str) -> Vec<String> {
    let argv = shell_words::split(line).unwrap_or_default();
    let mut names: Vec<String> = matcher
        .labels(&argv)
        .into_iter()
        .map(|group| policy.groups[group].name.clone())
        .collect();
    names.dedup();
    names
}

#[track_caller]
fn all(label: Option<&str>, lines: &[&str]) {
    let policy = Policy::built_in();
    let matcher = CommandMatcher::new(&policy);
    let wrong: Vec<String> = lines
        .iter()
        .map(|line| (line, labels(&policy, &matcher, line)))
        .filter(|(_, labels)| labels.iter().map(String::as_str).ne(label))
        .map(|(line, labels)| format!("{line}: {labels:?}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const DESTRUCTIVE: Option<&str> = Some("destructive-command");

#[test]
fn the_built_in_policy_knows_what_destroys() {
    all(
        DESTRUCTIVE,
        &[
            // Infrastructure.
            "terraform destroy",
            "terraform -chdir=infra destroy -auto-approve",
            "terraform -chdir infra destroy",
            "terraform apply -destroy -auto-approve",
            "terraform apply --destroy",
            "terraform state rm aws_instance.x",
            "tofu destroy -target=module.x",
            "terragrunt run-all destroy",
            "pulumi destroy --yes",
            "cdk destroy --all --force",
            // Clusters.
            "kubectl delete namespace prod",
            "kubectl -n prod delete pvc --all",
            "kubectl --context prod delete pv data-0",
            "kubectl delete deployment,statefulset --all -n prod",
            "kubectl delete -f everything.yaml --dry-run=none",
            "helm -n prod uninstall db",
            // Providers.
            "aws s3 rb --force s3://bucket",
            "aws s3 rb s3://bucket --force",
            "aws --profile prod s3 rm s3://bucket --recursive",
            "aws --region eu-west-1 ec2 terminate-instances --instance-ids i-1",
            "aws rds delete-db-instance --db-instance-identifier x --skip-final-snapshot",
            "aws kms schedule-key-deletion --key-id k",
            "gcloud compute disks delete d --quiet",
            "gcloud --project p projects delete p",
            "gcloud beta sql instances delete db",
            "az group delete --name rg --yes --no-wait",
            "az keyvault purge --name k",
            // Platforms.
            "railway volume delete --volume v",
            "railway volume -s db delete -y",
            "fly apps destroy app --yes",
            "flyctl -a app machine destroy 1234 --force",
            "fly volumes destroy vol_1",
            "vercel rm app --yes",
            "vercel remove app",
            "vercel --token x rm app",
            "heroku apps:destroy -a app --confirm app",
            "heroku apps:destroy --app app",
            "wrangler d1 execute db --remote --command 'DROP TABLE users'",
            // Databases.
            "psql -c 'DROP TABLE users'",
            "psql -c'DROP TABLE users'",
            "psql --command='drop table users'",
            "psql --command 'TRUNCATE users'",
            "psql postgres://h/db -Atc 'begin; Drop Schema public cascade; commit'",
            "psql -h db -U postgres prod -c '/* all */ DROP\nDATABASE x'",
            "psql -c '-- gone\nDROP TABLE x'",
            "mysql -uroot -e 'DROP DATABASE x'",
            "mysql --execute='truncate table x' db",
            "sqlite3 app.db 'DROP TABLE users;'",
            "redis-cli FLUSHALL",
            "redis-cli -h cache -p 6380 -n 2 flushdb ASYNC",
            "redis-cli --tls -u redis://x FlushAll",
            "redis-cli EVAL \"return redis.call('FLUSHALL')\" 0",
            "mongosh mongodb://h/db --eval 'db.dropDatabase()'",
            "mongosh --quiet --eval='db.dropDatabase()' mongodb://h/db",
            "mongosh --eval 'db.users.drop()'",
            "dropdb -h x prod",
            // Code hosts.
            "git push --force",
            "git push origin main --force",
            "git -C repo push -f",
            "git push -uf origin main",
            "git push origin +main",
            "git push origin +HEAD:main",
            "git push --mirror origin",
            "git push origin --delete main",
            "git push origin :main",
            "git -c push.default=current push origin main -f",
            "gh repo delete me/it --yes",
            "gh api -X DELETE repos/me/it",
            "gh api repos/me/it -XDELETE",
            "gh api --method=DELETE repos/me/it",
            "gh api --method DELETE repos/me/it",
            // Containers.
            "docker system prune -af --volumes",
            "docker volume prune -f",
            "docker --context prod image prune -a",
            "docker builder prune",
            "docker compose -f c.yml down -v",
            "docker-compose down --volumes",
            "podman system prune",
            // Files.
            "rm -rf /",
            "rm -rf //",
            "rm -fr /home/",
            "rm -r -f -- /",
            "rm -rf --no-preserve-root /",
            "rm --recursive --force /home",
            "rm -rf / --one-file-system",
            "rm -Rf /etc",
            "rm -rf /home/ann",
            "rm -rf /home/ann/",
            "rm -rf '~'",
            "rm -rf '~/*'",
            "rm -rf '$HOME'",
            "rm -rf '${HOME}/.*'",
            "rm -rf '/*'",
            "rm -rf /bin /boot /dev /etc",
            "rm -rf build /home/ann/../..",
            "rm -rf /home/ann/Documents /home/ann/notes",
            "rm -rf /home/ann/a /home/ann/b /home/ann/c /home/ann/d",
            "rm -rf /root /srv",
            "rm -rf /var/lib",
            "find / -delete",
            "find /home/ann -mindepth 1 -delete",
            // Disks.
            "dd if=/dev/zero of=/dev/sda bs=1M",
            "dd of=/dev/nvme0n1 if=x.img",
            "dd if=x of=/dev/disk/by-id/y",
            "mkfs.ext4 -F /dev/sdb1",
            "mkfs -t xfs /dev/sdb",
            "wipefs -a /dev/sda",
            "blkdiscard /dev/sda",
            "zfs destroy -r tank",
        ],
    );
}

#[test]
fn the_built_in_policy_knows_what_publishes() {
    all(
        Some("publishing"),
        &[
            "npm publish",
            "npm publish --access public --tag next",
            "pnpm publish --no-git-checks",
            "pnpm -r publish",
            "yarn npm publish",
            "cargo publish",
            "cargo +nightly publish -p x",
            "twine upload dist/x.whl",
            "python3 -m twine upload dist/x.whl",
            "poetry publish --build",
            "uv publish",
            "gem push x.gem",
            "docker push me/it:1",
            "docker buildx build --push -t me/it .",
            "helm push x.tgz oci://r",
            "gh release create v1",
            "sh -c 'cd pkg && npm publish'",
            "npx lerna publish",
            "uvx twine upload dist/x.whl",
            "python3 setup.py sdist upload",
        ],
    );
}

#[test]
fn wrappers_are_looked_through() {
    all(
        DESTRUCTIVE,
        &[
            // Shells.
            "sh -c 'terraform destroy'",
            "bash -lc 'cd infra && terraform destroy -auto-approve'",
            "bash --norc -euo pipefail -c 'set -x; terraform destroy'",
            "bash -c 'psql -c \"DROP TABLE x\"'",
            "bash -c \"psql -c 'DROP TABLE x'\"",
            "sh -c 'true || { terraform destroy; }'",
            "sh -c '(cd x; terraform destroy)'",
            "sh -c 'if true; then terraform destroy; fi'",
            "sh -c 'for x in a b; do kubectl delete ns $x; done'",
            "sh -c 'echo \"$(terraform destroy)\"'",
            "sh -c 'echo `terraform destroy`'",
            "sh -c 'TF_LOG=1 AWS_PROFILE=x terraform destroy'",
            "sh -c 'terraform destroy > log 2>&1 &'",
            "sh -c 'yes | terraform destroy'",
            "sh -c 'cat > f <<EOF\nx\nEOF\nterraform destroy'",
            "sh -c 'echo x # y\nterraform destroy'",
            "sh -c 'terra\"form\" des\\troy'",
            "sh -c \"eval 'terraform destroy'\"",
            "sh -c 'exec terraform destroy'",
            "sh -c 'case x in x) terraform destroy;; esac'",
            "sh -c \"echo it's; terraform destroy\"",
            "zsh -c 'sh -c \"sh -c \\\"terraform destroy\\\"\"'",
            // What runs one command.
            "env terraform destroy",
            "env -i -u X PATH=/bin terraform destroy",
            "env -S 'terraform destroy' -auto-approve",
            "sudo terraform destroy",
            "sudo -u root -E TF_LOG=1 terraform destroy",
            "sudo -- rm -rf /",
            "sudo -n sh -c 'rm -rf /*'",
            "doas -u root rm -rf /",
            "su -c 'rm -rf /' root",
            "su - postgres -c 'psql -c \"DROP DATABASE x\"'",
            "runuser -u postgres -- psql -c 'DROP DATABASE x'",
            "xargs -n1 -I{} kubectl delete ns {}",
            "xargs rm -rf /",
            "timeout 60 terraform destroy",
            "timeout -k 5 -s KILL 60s terraform destroy",
            "nice -n 10 terraform destroy",
            "nohup setsid ionice -c 3 terraform destroy",
            "stdbuf -oL terraform destroy",
            "flock /tmp/l terraform destroy",
            "flock -w 5 /tmp/l -c 'terraform destroy'",
            "script -qc 'terraform destroy' /dev/null",
            "watch -n 1 terraform destroy",
            "parallel kubectl delete ns ::: a b",
            "parallel ::: 'terraform destroy' true",
            "find . -name x -exec rm -rf / ;",
            "chroot /mnt/x rm -rf /",
            "nsenter -t 1 -m -u rm -rf /",
            "strace -f -o log terraform destroy",
            "aws-vault exec prod -- terraform destroy",
            "op run --env-file .env -- terraform destroy",
            // Packages.
            "npx vercel rm app",
            "npx --yes vercel@latest rm app",
            "npx -p vercel vercel rm app",
            "npm exec -- vercel rm app",
            "pnpm dlx vercel@39 rm app",
            "yarn dlx vercel rm app",
            "yarn vercel rm app",
            "bunx vercel rm app",
            "deno run -A npm:vercel@39 rm app",
            "node /usr/lib/node_modules/.bin/vercel rm app",
            "npx @railway/railway volume delete",
            "bundle exec rails db:drop",
            // Elsewhere.
            "ssh host terraform destroy",
            "ssh -p 22 -i key ann@host 'cd infra && terraform destroy'",
            "ssh host sudo rm -rf /",
            "ssh host \"psql -c 'DROP TABLE x'\"",
            "docker exec -it -u root cache redis-cli FLUSHALL",
            "docker exec db sh -c 'psql -c \"DROP TABLE x\"'",
            "docker compose -f c.yml exec db psql -U x -c 'DROP TABLE y'",
            "docker run --rm -v a:b -e X=y hashicorp/terraform:1.9 destroy",
            "docker run --rm alpine rm -rf /",
            "docker run --rm --entrypoint terraform image destroy",
            "kubectl exec -it -n prod pod-0 -c db -- psql -c 'DROP TABLE x'",
            "kubectl exec deploy/cache -- redis-cli FLUSHALL",
            "systemd-run --user --wait terraform destroy",
            "tmux new-session -d -s x 'terraform destroy'",
            "tmux send-keys -t x 'terraform destroy' Enter",
            "fly ssh console -a x -C 'rm -rf /'",
            "heroku run -a x rails db:drop",
            "busybox dd if=/dev/zero of=/dev/sda",
            "busybox sh -c 'rm -rf /'",
            "sudo env X=y timeout 5 ssh host 'bash -c \"docker exec db dropdb x\"'",
        ],
    );
}

#[test]
fn honest_work_is_left_alone() {
    all(
        None,
        &[
            "terraform plan -destroy",
            "terraform plan destroy",
            "terraform show",
            "terraform destroyer",
            "tofu apply",
            "kubectl get pods",
            "kubectl delete ns x --dry-run=client",
            "kubectl describe pod delete",
            "helm upgrade x y",
            "aws s3 ls",
            "aws s3 rm s3://b/one",
            "aws s3 rm s3://b --recursive --dryrun",
            "gcloud compute disks list",
            "az group list",
            "railway volume list",
            "fly status",
            "vercel ls",
            "heroku apps:info",
            "psql -c 'SELECT * FROM backdrop'",
            "psql -c \"SELECT 'drop table x'\"",
            "psql -c 'SELECT dropped FROM x'",
            "psql -f drop.sql",
            "psql drop",
            "mysql -e 'SHOW TABLES'",
            "redis-cli GET flushall",
            "redis-cli SET x FLUSHALL",
            "mongosh --eval 'db.users.find()'",
            "git push",
            "git push origin main",
            "git push --force-with-lease",
            "git push origin main:main",
            "git push --force --dry-run",
            "git push -- --force",
            "git commit -m 'git push --force'",
            "gh repo view",
            "gh api repos/me/it",
            "docker ps",
            "docker compose down",
            "docker exec -it x sh",
            "docker run --rm alpine ls",
            "rm -rf ./target",
            "rm -rf target",
            "rm -rf /tmp/x",
            "rm -rf /tmp/x/*",
            "rm -rf /home/ann/project",
            "rm -rf /home/ann/project/target /home/ann/project/x",
            "rm -rf '$HOME/project'",
            "rm -rf /var/lib/x",
            "rm /etc",
            "rm -f x",
            "find . -delete",
            "find / -name '*.pyc' -delete",
            "find / -name terraform",
            "dd if=/dev/zero of=file bs=1M",
            "dd if=/dev/sda of=disk.img",
            "dd if=x of=/dev/null",
            "mkfs.ext4 disk.img",
            "zfs list",
            "zfs destroy -nv tank",
            "npm publish --dry-run",
            "npm run publish-docs",
            "npm install publish",
            "cargo publish --dry-run",
            "cargo build",
            "twine check dist/x",
            "poetry publish --dry-run",
            "docker pull x",
            "echo terraform destroy",
            "grep -r 'terraform destroy' .",
            "bash -c 'echo terraform destroy'",
            "bash -c \"grep 'rm -rf /' x\"",
            "bash -c 'git commit -m \"drop; terraform destroy\"'",
            "bash -c 'cat > notes <<EOF\nterraform destroy\nEOF'",
            "bash -c 'cat > notes <<\\EOF\nrm -rf /\nEOF\nls'",
            "bash -c 'ls # terraform destroy'",
            "bash script.sh terraform destroy",
            "ssh host",
            "ssh terraform destroy-it",
            "ssh host ls",
            "sudo -l",
            "sudo apt-get install terraform",
            "env -i true",
            "timeout 5 terraform plan",
            "xargs grep terraform destroy",
            "npx vercel ls",
            "yarn install",
            "tmux ls",
            "systemd-run --user ls",
            "busybox ls",
        ],
    );
}

#[test]
fn a_script_is_split_where_a_shell_would() {
    let commands = |text: &str| -> Vec<String> {
        let words = script::commands(text).into_iter();
        words.map(|words| words.join("|")).collect()
    };
    assert_eq!(
        commands("a b; c 'd;e' && f || g | h & i\nj"),
        ["a|b", "c|d;e", "f", "g", "h", "i", "j"]
    );
    assert_eq!(commands("a \"$(b 'c)d')\" e"), ["b|c)d", "a|$()|e"]);
    assert_eq!(commands("a <(b c) > d 2>&1 <<< e f"), ["b|c", "a|$()|f"]);
    assert_eq!(commands("a &> b; c 3<d 4>&- e"), ["a", "c|e"]);
    assert_eq!(commands("a <<-'X' b\n\tc\n\tX\nd"), ["a|b", "d"]);
    assert_eq!(
        commands("a ${b:-c;d} \"${e}\" $'f\\'g'"),
        ["a|${b:-c;d}|${e}|f'g"]
    );
    assert_eq!(commands("! time X=1 while a"), ["time|X=1|while|a"]);
    assert_eq!(commands("a \\\n b \\; c"), ["a|b|;|c"]);
    assert_eq!(commands("a $((1<<2))\nb"), ["$()", "a|$()", "b"]);
    assert_eq!(commands("a <<X\nb"), ["a", "b"]);
    // What does not balance is split at every sign.
    assert_eq!(commands("a 'b; c d"), ["a|b", "c|d"]);
    assert_eq!(commands("a $(b c"), ["a|$", "b|c"]);
    assert_eq!(commands("a \\"), ["a|\\"]);
    assert!(commands(" ; # x").is_empty());
}

#[test]
fn no_command_line_takes_long() {
    let matcher = CommandMatcher::new(&Policy::built_in());
    let long = 4096;
    let script = |text: &str| {
        vec![
            "sh".to_owned(),
            "-c".to_owned(),
            text.repeat(long / text.len()),
        ]
    };
    let words = |text: &str| vec![text.to_owned(); long / (text.len() + 1)];
    let mut lines: Vec<Vec<String>> = [
        "a;", "rm a;", "psql ", "$(", "`", "(", "'", "\"", "<<a\n", "sudo ", "eval ", "; ", "\\",
        "${", "a=b ", "*",
    ]
    .map(script)
    .into();
    lines.extend(
        [
            "sudo", "env", "eval", "sh", "-c", "npx", "find", "-exec", ";", "@", "--", "/",
        ]
        .map(words),
    );
    for head in ["psql", "rm", "git", "tmux", "docker", "parallel", "find"] {
        for text in ["\n/*", "drop ", "-", "/", ":::", "*a", "new", "run", "{}"] {
            let mut line = vec![head.to_owned()];
            line.extend(words(text));
            lines.push(line);
            lines.push(vec![head.to_owned(), text.repeat(long / text.len())]);
        }
    }
    for line in lines {
        let began = Instant::now();
        matcher.labels_of(Some(Path::new("/usr/bin/x")), &line);
        let took = began.elapsed();
        // Far more than it takes, also without optimisation and on a busy machine.
        assert!(
            took.as_millis() < 1000,
            "{took:?}: {:?}",
            line.iter().take(4).collect::<Vec<_>>()
        );
    }
}

#[test]
fn wrappers_are_gated_where_nothing_else_shows_what_they_run() {
    use guard_common::matching::{component, domain};
    let gated_beside = |shell: &str, rest: &str, name: &str| {
        let policy = super::policy(rest);
        let bits = LabelBits::assign(None, &policy).expect("bits");
        let tables = policy
            .lay_out_beside(
                Path::new(shell),
                0,
                &bits,
                &Homes::of(Vec::<PathBuf>::new()),
            )
            .expect("tables");
        let hash = component(name.as_bytes());
        tables
            .keys
            .iter()
            .any(|(key, _)| key.domain == domain::COMMAND && key.hash == hash)
    };
    let gated = |rest: &str, name: &str| gated_beside("/usr/bin/dash", rest, name);
    let policy = "[[label]]\nname = \"l\"\nargv = [\"terraform destroy\"]\n";
    for name in [
        "terraform",
        "ssh",
        "docker",
        "kubectl",
        "busybox",
        "systemd-run",
        "yarn",
    ] {
        assert!(gated(policy, name), "{name}");
    }
    // These execute what they wrap, and that is judged.
    for name in [
        "sh", "bash", "env", "sudo", "xargs", "timeout", "nohup", "npx", "find",
    ] {
        assert!(!gated(policy, name), "{name}");
    }
    let without = "[[label]]\nname = \"l\"\nfiles = [\"x\"]\n";
    assert!(!gated(without, "ssh"));
    // There each command of a session is busybox.
    assert!(!gated_beside("/bin/busybox", policy, "busybox"));
    assert!(gated_beside("/bin/busybox", policy, "toybox"));
}

#[test]
fn a_statement_begins_at_the_text_a_semicolon_or_a_line() {
    use super::super::statement::Statement;
    let drop = Statement::parse("drop+*").expect("a statement");
    for text in [
        "drop table x",
        " (DROP\n\ttable x)",
        "select 1;drop table x",
        "\\x\nDrop view x",
        "/* x */ drop /* y */ table z",
        "-- x\ndrop \"x\"",
    ] {
        assert!(drop.is_in(text), "{text}");
    }
    for text in [
        "",
        "drop",
        "drop;",
        "drop ;",
        "dropped x",
        "drop_x y",
        "drop-shadow x",
        "x drop y",
        "-- drop x",
        "/* ; drop x */",
        "/* drop x",
        "backdrop x",
    ] {
        assert!(!drop.is_in(text), "{text}");
    }
    let database = Statement::parse("DROP+database").expect("a statement");
    assert!(database.is_in("drop Database x") && !database.is_in("drop table database"));
}

proptest! {
    #[test]
    fn words_come_back_from_a_shell_as_they_were_quoted(words in prop::collection::vec("\\PC{0,8}|[ \"'$`\\\\<>;&|(){}#~*!=\n-]{1,4}", 0..6)) {
        let words: Vec<String> = [String::from("x")].into_iter().chain(words).collect();
        prop_assert_eq!(script::commands(&shell_words::join(&words)), [words]);
    }

    #[test]
    fn no_text_makes_the_splitter_panic(text in "([a-c ]|\\$\\(|[\"'$`\\\\<>;&|(){}#=\n-]|<<a\n|é){0,40}") {
        for words in script::commands(&text) {
            prop_assert!(!words.is_empty());
        }
    }

    #[test]
    fn no_command_line_makes_the_matcher_panic(argv in prop::collection::vec("(sudo|env|sh|-c|-lc|--|-S|docker|run|--entrypoint|npx|ssh|find|-exec|;|parallel|:::|psql|rm|-rf|git|push|-)|\\PC{0,6}|-\\PC{0,4}|[~/.*$é]{1,6}", 0..8)) {
        static MATCHER: std::sync::LazyLock<CommandMatcher> =
            std::sync::LazyLock::new(|| CommandMatcher::new(&Policy::built_in()));
        let labels = MATCHER.labels(&argv);
        prop_assert!(labels.is_sorted());
    }
}
