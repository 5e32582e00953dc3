//! AWS: which action a request is for.
//! <https://smithy.io/2.0/aws/protocols/index.html>

use super::head::Head;

/// Services that a request is for: of its signature's scope
/// (<https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html>), and the first part of its host's name.
pub(super) fn services(head: &Head) -> Vec<String> {
    let mut services = Vec::new();
    services.extend(head.service.clone());
    for host in &head.hosts {
        if host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn") {
            let first = host.split('.').next().unwrap_or_default();
            services.push(first.to_owned());
        }
    }
    services.dedup();
    services
}

/// The service of a signature's scope in an `Authorization` header; nothing else of it is kept.
pub(super) fn signed_for(authorization: &str) -> Option<String> {
    let scope = authorization
        .strip_prefix("AWS4-")?
        .split(['=', ',', ' '])
        .find(|part| part.ends_with("/aws4_request"))?;
    scope.rsplit('/').nth(1).map(str::to_ascii_lowercase)
}

/// The action that a `X-Amz-Target` names, `DynamoDB_20120810.DeleteTable`.
pub(super) fn target(value: &str) -> String {
    value.rsplit('.').next().unwrap_or(value).to_owned()
}

/// The action of a path in the form of Smithy's RPC protocol, `/service/NAME/operation/ACTION`.
pub(super) fn of_path(path: &str) -> Option<String> {
    let mut parts = path.rsplit('/');
    let action = parts.next()?;
    (parts.next()? == "operation" && !action.is_empty()).then(|| action.to_owned())
}
