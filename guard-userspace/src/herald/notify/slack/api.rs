//! Slack's Web API: JSON by POST, an error in an answer of status 200. <https://api.slack.com/web>

use std::{path::Path, time::Duration};

use serde_json::Value;

use crate::{
    herald::{
        http::{Client, Stream, Target},
        secret,
    },
    policy::Slack,
};

/// The longest that Slack may ask to wait before trying again.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How often a call is tried.
const TRIES: u32 = 4;

/// The API.
#[derive(Debug)]
pub(super) struct Api {
    base: String,
    client: Client,
}

impl Api {
    pub(super) fn new(settings: &Slack) -> Self {
        Self {
            base: settings.api.clone(),
            client: Client::new(settings.ca_file.clone()),
        }
    }

    /// Loads whom it trusts.
    pub(super) async fn prepare(&self) -> Result<(), String> {
        if Target::parse(&self.base)?.is_secure() {
            self.client.prepare().await?;
        }
        Ok(())
    }

    /// Calls a method with the token of a file.
    ///
    /// # Errors
    /// In words, Slack's own included.
    pub(super) async fn call(
        &self,
        method: &str,
        token_file: &Path,
        body: &Value,
    ) -> Result<Value, String> {
        let target = Target::parse(&format!("{}{method}", self.base))?;
        let token = secret::read(token_file)?;
        let token = token
            .text()
            .filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()))
            .ok_or_else(|| format!("{}: it holds no token", token_file.display()))?;
        let headers = [
            ("authorization", format!("Bearer {token}")),
            ("content-type", "application/json; charset=utf-8".into()),
        ];
        let answer = self.post(&target, &headers, body).await?;
        let reply: Value = serde_json::from_slice(&answer)
            .map_err(|error| format!("{method}: what Slack says is not JSON: {error}"))?;
        if reply["ok"] == true {
            return Ok(reply);
        }
        let error = reply["error"].as_str().unwrap_or("no error is named");
        let error: String = error
            .chars()
            .filter(|c| !c.is_control())
            .take(100)
            .collect();
        Err(format!("{method}: Slack says {error}{}", remedy(&error)))
    }

    /// Sends to an incoming webhook. <https://api.slack.com/messaging/webhooks>
    ///
    /// # Errors
    /// In words.
    pub(super) async fn incoming_webhook(
        &self,
        target: &Target,
        body: &Value,
    ) -> Result<(), String> {
        let headers = [("content-type", "application/json; charset=utf-8".to_owned())];
        self.post(target, &headers, body).await.map(drop)
    }

    async fn post(
        &self,
        target: &Target,
        headers: &[(&'static str, String)],
        body: &Value,
    ) -> Result<Vec<u8>, String> {
        let body = body.to_string().into_bytes();
        let mut wait = Duration::from_secs(1);
        for left in (0..TRIES).rev() {
            let why = match self.client.post(target, headers, body.clone()).await {
                Ok(answer) if answer.status.is_success() => return Ok(answer.body.to_vec()),
                Ok(answer) if answer.status.as_u16() == 429 || answer.status.is_server_error() => {
                    // <https://api.slack.com/apis/rate-limits>
                    if let Some(asked) = answer.header("retry-after").and_then(|s| s.parse().ok()) {
                        wait = Duration::from_secs(asked);
                    }
                    format!("{}: it answers {}", target.authority(), answer.status)
                }
                Ok(answer) => {
                    let said: String = String::from_utf8_lossy(&answer.body)
                        .chars()
                        .filter(|c| !c.is_control())
                        .take(100)
                        .collect();
                    let (at, status) = (target.authority(), answer.status);
                    return Err(format!("{at}: it answers {status}: {said}"));
                }
                Err(why) => why,
            };
            if left == 0 {
                return Err(format!("{why} (tried {TRIES} times)"));
            }
            tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
            wait *= 2;
        }
        Err("it was not tried".into())
    }

    /// Connects where Slack says, which must be no less safe than the API itself.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn connect(&self, address: &str) -> Result<Box<dyn Stream>, String> {
        let target =
            Target::parse(address).map_err(|why| format!("Socket Mode's address: {why}"))?;
        if Target::parse(&self.base)?.is_secure() && !target.is_secure() {
            return Err("Socket Mode's address is not encrypted, and the API's is".into());
        }
        self.client.connect(&target).await
    }
}

/// What can be done about an error of Slack's that comes of how it was set up.
fn remedy(error: &str) -> &'static str {
    match error {
        "invalid_auth" | "not_authed" | "token_revoked" | "account_inactive" => {
            ": put a valid token into the file"
        }
        "missing_scope" => {
            ": give the app the scope chat:write, or connections:write to its app-level token"
        }
        "channel_not_found" | "not_in_channel" => {
            ": invite the app to the channel, and use the channel's id"
        }
        "not_allowed_token_type" => {
            ": the app-level token (xapp-) and the bot's (xoxb-) are in each other's place"
        }
        _ => "",
    }
}
