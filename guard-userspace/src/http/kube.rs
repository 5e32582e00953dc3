//! Kubernetes' API: which verb a method and a path are.
//! <https://kubernetes.io/docs/reference/access-authn-authz/authorization/#determine-the-request-verb>

/// Verb and resource of a request, or `None` where the path is not of that API. `path` in small letters and without a last `/`.
/// A subresource is told behind a slash: `pods/exec`.
pub(super) fn verb(method: &str, path: &str) -> Option<(String, String)> {
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    // Behind a proxy such as Rancher's the API's path has something in front.
    let begins = parts.windows(2).position(|two| {
        (two[0] == "api" && is_version(two[1])) || (two[0] == "apis" && !two[1].is_empty())
    })?;
    parts.drain(..begins);
    let mut parts = if parts[0] == "api" {
        parts.drain(..2);
        parts
    } else {
        if parts.len() < 3 || !is_version(parts[2]) {
            return None;
        }
        parts.drain(..3);
        parts
    };
    if parts.first() == Some(&"watch") {
        parts.remove(0);
    }
    // `namespaces/NAME/RESOURCE…`; a namespace itself is `namespaces/NAME`, and so are its own two subresources.
    if parts.first() == Some(&"namespaces")
        && parts.len() > 2
        && !matches!(parts[2], "status" | "finalize")
    {
        parts.drain(..2);
    }
    let resource = (*parts.first()?).to_owned();
    let named = parts.len() > 1;
    let resource = match parts.get(2) {
        Some(sub) => format!("{resource}/{sub}"),
        None => resource,
    };
    let verb = match (method, named) {
        ("GET" | "HEAD", true) => "get",
        ("GET" | "HEAD", false) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => return None,
    };
    Some((verb.into(), resource))
}

/// `v1`, `v1beta1`, `v2alpha3`.
fn is_version(part: &str) -> bool {
    part.strip_prefix('v')
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_and_a_path_are_a_verb_and_a_resource() {
        for (method, path, expected) in [
            ("DELETE", "/api/v1/namespaces/prod", "delete namespaces"),
            (
                "DELETE",
                "/api/v1/namespaces/prod/pods/web-0",
                "delete pods",
            ),
            (
                "DELETE",
                "/api/v1/namespaces/prod/persistentvolumeclaims",
                "deletecollection persistentvolumeclaims",
            ),
            (
                "DELETE",
                "/apis/apps/v1/namespaces/prod/deployments/web",
                "delete deployments",
            ),
            ("GET", "/api/v1/pods", "list pods"),
            ("GET", "/api/v1/namespaces/prod/pods/x/log", "get pods/log"),
            (
                "POST",
                "/api/v1/namespaces/prod/pods/x/eviction",
                "create pods/eviction",
            ),
            (
                "PUT",
                "/api/v1/namespaces/prod/finalize",
                "update namespaces/finalize",
            ),
            (
                "DELETE",
                "/k8s/clusters/c-1/api/v1/namespaces/prod",
                "delete namespaces",
            ),
        ] {
            let found = verb(method, path).map(|(verb, resource)| format!("{verb} {resource}"));
            assert_eq!(found.as_deref(), Some(expected), "{method} {path}");
        }
        for path in ["/", "/v1/volumes/1", "/api/users/1", "/apis/apps"] {
            assert_eq!(verb("DELETE", path), None, "{path}");
        }
    }
}
