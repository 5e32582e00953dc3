//! `guardctl baseline …`: what is usual for agents.

mod render;

use std::path::{Path, PathBuf};

use clap::Subcommand;

pub(super) use self::render::conduct;
use super::{Guardctl, client::Conversation, escape, failure::Failure, payload};
use crate::{
    conduct::{Baseline, Baselines, Contribution, compare, divergence},
    wire::{BaselineInfo, CategoryInfo, Reply, Request},
};

/// `guardctl baseline …`
#[derive(Debug, Subcommand)]
pub enum BaselineCommand {
    /// Take what sessions did for usual from now on
    Learn {
        /// Sessions, ended ones too; naming one accepts it
        #[arg(required = true, value_name = "SESSION")]
        sessions: Vec<String>,
        /// Whose baseline [default: of the sessions' own agent]
        #[arg(long, value_name = "NAME")]
        agent: Option<String>,
        /// Though some of their calls were denied or killed
        #[arg(long)]
        force: bool,
    },
    /// Baselines, learned and shipped, with their distributions
    Show {
        /// Of this agent alone
        name: Option<String>,
    },
    /// How far a session, or a baseline in a file, is from what is usual, and by what
    Diff {
        /// Session, or a file as `export` writes it
        what: String,
    },
    /// Print an agent's baseline, to be kept or imported elsewhere
    Export {
        /// Agent
        name: String,
    },
    /// Put baselines from a file in the place of learned ones
    Import {
        /// File, as `export` writes it
        file: PathBuf,
    },
    /// Forget what was learned of an agent
    Forget {
        /// Agent
        name: String,
    },
}

/// The request, of the commands that are one question.
pub(super) fn request(command: &BaselineCommand) -> Result<Option<Request>, Failure> {
    Ok(Some(match command {
        BaselineCommand::Learn {
            sessions,
            agent,
            force,
        } => Request::BaselineLearn {
            sessions: sessions.clone(),
            agent: agent.clone(),
            force: *force,
        },
        BaselineCommand::Show { name } => Request::Baselines {
            agent: name.clone(),
        },
        BaselineCommand::Import { file } => Request::BaselineImport {
            baselines: read(file)?,
        },
        BaselineCommand::Forget { name } => Request::BaselineForget {
            agent: name.clone(),
        },
        BaselineCommand::Diff { .. } | BaselineCommand::Export { .. } => return Ok(None),
    }))
}

fn read(file: &Path) -> Result<Vec<Baseline>, Failure> {
    let wrong = |why: String| Failure::Invalid(format!("{}: {why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| {
        wrong(format!(
            "{error}: give a file that 'guardctl baseline export' wrote"
        ))
    })?;
    let baselines = Baseline::from_toml(&text).map_err(|error| wrong(error.to_string()))?;
    if baselines.is_empty() {
        return Err(wrong(
            "no [[baseline]] in it: give a file that 'guardctl baseline export' wrote".into(),
        ));
    }
    Ok(baselines)
}

impl Guardctl<'_> {
    pub(super) fn baseline(&mut self, command: &BaselineCommand) -> Result<u8, Failure> {
        if let Some(request) = request(command)? {
            let reply = self.ask(&request)?;
            let text = if self.cli.json {
                format!("{}\n", payload(&reply)?)
            } else {
                self.for_people(&reply)
            };
            self.out.write_all(text.as_bytes())?;
            return Ok(0);
        }
        match command {
            BaselineCommand::Export { name } => self.export(name),
            BaselineCommand::Diff { what } => {
                let path = Path::new(what);
                // A session's name is no path that people give to a file, unless there is such a file.
                if what.contains('/') || path.is_file() {
                    self.diff_file(path)
                } else {
                    self.diff_session(what)
                }
            }
            _ => Ok(0),
        }
    }

    fn ask(&self, request: &Request) -> Result<Reply, Failure> {
        Conversation::open(&self.cli.socket, request)?.next()
    }

    fn baselines(&self, agent: Option<&str>) -> Result<Vec<BaselineInfo>, Failure> {
        let agent = agent.map(str::to_owned);
        match self.ask(&Request::Baselines { agent })? {
            Reply::Baselines { baselines } => Ok(baselines),
            _ => Err(Failure::No("guardd answered something else".into())),
        }
    }

    /// The learned baseline of an agent, and where there is none, the shipped one.
    fn export(&mut self, name: &str) -> Result<u8, Failure> {
        let Some(info) = self.baselines(Some(name))?.into_iter().next() else {
            return Err(Failure::No(format!("baseline {name}: there is none")));
        };
        let text = if self.cli.json {
            let text = serde_json::to_string(&info.baseline);
            format!(
                "{}\n",
                text.map_err(|error| Failure::No(error.to_string()))?
            )
        } else {
            Baseline::to_toml(&[info.baseline]).map_err(|error| Failure::No(error.to_string()))?
        };
        self.out.write_all(text.as_bytes())?;
        Ok(0)
    }

    fn diff_session(&mut self, session: &str) -> Result<u8, Failure> {
        let session = session.to_owned();
        let Reply::Show(detail) = self.ask(&Request::Show { session })? else {
            return Err(Failure::No("guardd answered something else".into()));
        };
        let Some(info) = detail.conduct else {
            let why = "guardd keeps no scores: guardd and guardctl must be of one version";
            return Err(Failure::No(why.into()));
        };
        let text = if self.cli.json {
            let text = serde_json::to_string(&info);
            let text = text.map_err(|error| Failure::No(error.to_string()))?;
            format!("{}\n", escape::json(&text))
        } else {
            conduct(&self.screen, &info, usize::MAX)
        };
        self.out.write_all(text.as_bytes())?;
        Ok(0)
    }

    fn diff_file(&mut self, file: &Path) -> Result<u8, Failure> {
        let learned = self
            .baselines(None)?
            .into_iter()
            .filter(|info| info.learned);
        let known = Baselines::with_learned(learned.map(|info| info.baseline).collect());
        for baseline in read(file)? {
            let (theirs, usual) = (baseline.usual(), known.usual(&baseline.agent));
            let bits = divergence(&theirs, usual);
            let categories: Vec<CategoryInfo> =
                compare(&theirs, usual).into_iter().map(info).collect();
            let text = if self.cli.json {
                let value = serde_json::json!({
                    "agent": baseline.agent, "divergence": bits, "baseline": known.source(&baseline.agent), "categories": categories,
                });
                format!("{}\n", escape::json(&value.to_string()))
            } else {
                format!(
                    "{}: {bits:.3} bits from what is usual here ({})\n{}",
                    escape::text(&baseline.agent),
                    known.source(&baseline.agent),
                    render::categories(&self.screen, &categories, usize::MAX)
                )
            };
            self.out.write_all(text.as_bytes())?;
        }
        Ok(0)
    }
}

fn info(one: Contribution) -> CategoryInfo {
    CategoryInfo {
        category: one.category.name().into(),
        share: one.share,
        usual: one.usual,
        bits: one.bits,
    }
}

/// `baseline show`.
pub(super) fn show(screen: &super::Screen, baselines: &[BaselineInfo]) -> String {
    render::baselines(screen, baselines)
}
