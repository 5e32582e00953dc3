//! Every kind of event against what the schema requires of its class. The tables are taken from
//! <https://github.com/ocsf/ocsf-schema/tree/v1.8.0>: the attributes with `"requirement": "required"` of
//! `events/*.json` with all that they extend, of `objects/*.json` for those that are objects, and the enumerations.

use serde_json::Value;

use super::{super::samples, *};

/// `class_uid`, `category_uid`, values of `activity_id`, required attributes besides those of all classes.
const CLASSES: [(u64, u64, &[u64], &[&str]); 10] = [
    (
        1001,
        1,
        &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 99],
        &["actor", "device", "file"],
    ),
    (
        1003,
        1,
        &[0, 1, 2, 3, 4, 99],
        &["actor", "device", "kernel"],
    ),
    (
        1007,
        1,
        &[0, 1, 2, 3, 4, 5, 99],
        &["actor", "device", "process"],
    ),
    (2004, 2, &[0, 1, 2, 3, 99], &["finding_info"]),
    (3003, 3, &[0, 1, 2, 99], &["user", "privileges"]),
    (
        3004,
        3,
        &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 99],
        &["entity"],
    ),
    (4001, 4, &[0, 1, 2, 3, 4, 5, 6, 7, 99], &[]),
    (
        4002,
        4,
        &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 99],
        &["http_request"],
    ),
    (6002, 6, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 99], &["app"]),
    (6008, 6, &[0, 1, 2, 99], &[]),
];

/// Of `events/base_event.json`.
const BASE: [&str; 7] = [
    "activity_id",
    "category_uid",
    "class_uid",
    "metadata",
    "severity_id",
    "time",
    "type_uid",
];

/// Attribute that is an object: what it requires, and of what it takes at least one.
const OBJECTS: [(&str, &[&str], &[&str]); 14] = [
    ("metadata", &["product", "version"], &[]),
    ("product", &[], &["name", "uid"]),
    ("app", &[], &["name", "uid"]),
    ("device", &["type_id"], &["ip", "uid", "name", "hostname"]),
    (
        "actor",
        &[],
        &[
            "process",
            "user",
            "invoked_by",
            "session",
            "app_name",
            "app_uid",
        ],
    ),
    ("process", &[], &["pid", "uid", "cpid"]),
    ("file", &["name", "type_id"], &[]),
    ("kernel", &["name", "type_id"], &[]),
    ("user", &[], &["account", "name", "uid"]),
    (
        "entity",
        &[],
        &["name", "uid", "device", "group", "org", "policy", "user"],
    ),
    ("finding_info", &["uid"], &[]),
    ("analytic", &["type_id"], &[]),
    ("connection_info", &["direction_id"], &[]),
    (
        "dst_endpoint",
        &[],
        &["ip", "uid", "name", "hostname", "svc_name", "domain"],
    ),
];

/// Attribute and its values. `type_id` is another thing in each object.
const ENUMS: [(&str, &[u64]); 7] = [
    ("severity_id", &[0, 1, 2, 3, 4, 5, 6, 99]),
    ("action_id", &[0, 1, 2, 3, 4, 99]),
    ("launch_type_id", &[0, 1, 2, 3, 99]),
    ("direction_id", &[0, 1, 2, 3, 4, 99]),
    ("protocol_ver_id", &[0, 4, 6, 99]),
    ("status_id", &[0, 1, 2, 3, 4, 5, 6, 99]),
    ("disposition_id", &[0, 1, 2, 14, 15, 16, 17, 19, 99]),
];

const TYPES: [(&str, &[u64]); 5] = [
    (
        "device",
        &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 99],
    ),
    ("file", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 99]),
    ("kernel", &[0, 1, 2, 99]),
    ("user", &[0, 1, 2, 3, 4, 99]),
    ("analytic", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 99]),
];

fn host() -> Host {
    Host {
        name: "build-1".into(),
        version: "0.1.0".into(),
    }
}

/// What of an object, and of all in it, does not fit the tables.
fn check(name: &str, value: &Value, wrong: &mut Vec<String>) {
    let Some(members) = value.as_object() else {
        if let Some(items) = value.as_array() {
            items.iter().for_each(|item| check(name, item, wrong));
        }
        return;
    };
    if let Some((_, required, one_of)) = OBJECTS.iter().find(|(known, ..)| *known == name) {
        for attribute in *required {
            if !members.contains_key(*attribute) {
                wrong.push(format!("{name} has no {attribute}"));
            }
        }
        if !one_of.is_empty() && !one_of.iter().any(|one| members.contains_key(*one)) {
            wrong.push(format!("{name} has none of {one_of:?}"));
        }
    }
    for (key, value) in members {
        // What is there besides is guard's own.
        if key == "unmapped" || key == "data" {
            continue;
        }
        let values = match key.as_str() {
            "type_id" => TYPES.iter().find(|(of, _)| *of == name),
            key => ENUMS.iter().find(|(of, _)| *of == key),
        };
        if let Some((_, values)) = values
            && !value.as_u64().is_some_and(|value| values.contains(&value))
        {
            wrong.push(format!("{name}.{key} is {value}"));
        }
        if value.is_null() {
            wrong.push(format!("{name}.{key} is null"));
        }
        check(key, value, wrong);
    }
}

fn wrong_in(object: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let number = |name: &str| object[name].as_u64().unwrap_or(u64::MAX);
    let class = CLASSES
        .iter()
        .find(|(class, ..)| *class == number("class_uid"));
    let Some((class, category, activities, required)) = class else {
        return vec![format!("class {} is none", object["class_uid"])];
    };
    if number("category_uid") != *category {
        wrong.push(format!("category_uid is {}", object["category_uid"]));
    }
    if !activities.contains(&number("activity_id")) {
        wrong.push(format!("activity_id is {}", object["activity_id"]));
    }
    if number("type_uid") != class * 100 + number("activity_id") {
        wrong.push(format!("type_uid is {}", object["type_uid"]));
    }
    for attribute in BASE.iter().chain(*required) {
        if object.get(attribute).is_none() {
            wrong.push(format!("no {attribute}"));
        }
    }
    // Of `http_request.http_method`.
    if let Some(method) = object.pointer("/http_request/http_method")
        && !METHODS.contains(&method.as_str().unwrap_or_default())
    {
        wrong.push(format!("http_method is {method}"));
    }
    check("", object, &mut wrong);
    wrong
}

#[test]
fn every_kind_of_event_has_what_its_class_requires() {
    for event in samples::all() {
        for object in of(&event, &host()) {
            let wrong = wrong_in(&object);
            assert!(wrong.is_empty(), "{wrong:?}: {event:?}\n{object:#}");
        }
    }
}

#[test]
fn what_is_missing_or_unheard_of_is_seen_by_these_tests() {
    let event = samples::act(Kind::Open, json!({ "path": "/x" }), "deny");
    let sound = of(&event, &host()).remove(0);
    assert!(wrong_in(&sound).is_empty());
    for path in [
        "/file/name",
        "/severity_id",
        "/metadata/version",
        "/device/type_id",
        "/actor",
    ] {
        let mut object = sound.clone();
        let (parent, name) = path.rsplit_once('/').unwrap();
        let parent = object.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        parent.remove(name).unwrap();
        assert!(!wrong_in(&object).is_empty(), "{path}");
    }
    for (path, value) in [
        ("/activity_id", 50),
        ("/action_id", 7),
        ("/file/type_id", 70),
        ("/type_uid", 1),
    ] {
        let mut object = sound.clone();
        *object.pointer_mut(path).unwrap() = value.into();
        assert!(!wrong_in(&object).is_empty(), "{path}");
    }
}

#[test]
fn each_kind_has_the_class_that_the_documentation_says() {
    let class = |event: &Event| of(event, &host())[0]["class_uid"].as_u64().unwrap();
    for (kind, object, expected) in [
        (Kind::Exec, json!({}), 1007),
        (Kind::Open, json!({}), 1001),
        (Kind::Connect, json!({}), 4001),
        (Kind::Request, json!({}), 4002),
        (Kind::Signal, json!({}), 1007),
        (Kind::Call, json!({ "call": "bpf" }), 1003),
        (Kind::Call, json!({ "call": "guard-files" }), 1001),
        (Kind::Hold, json!({}), 2004),
        (Kind::Answer, json!({}), 2004),
        (Kind::Grant, json!({}), 3003),
        (Kind::Intent, json!({}), 3004),
        (Kind::Policy, json!({}), 3004),
        (Kind::Session, json!({}), 6002),
        (Kind::Lost, json!({}), 6008),
        (Kind::Guard, json!({}), 6002),
    ] {
        assert_eq!(class(&samples::event(kind, object)), expected, "{kind:?}");
    }
}

#[test]
fn a_verdict_is_a_finding_that_names_its_call() {
    let event = samples::act(
        Kind::Connect,
        json!({ "family": "inet", "addr": "203.0.113.9", "port": 443 }),
        "deny",
    );
    let objects = of(&event, &host());
    let [call, finding] = objects.as_slice() else {
        panic!("{objects:#?}");
    };
    assert_eq!(
        (&call["class_uid"], &finding["class_uid"]),
        (&4001.into(), &2004.into())
    );
    assert_eq!(
        (
            &call["action_id"],
            &call["disposition_id"],
            &call["status_id"]
        ),
        (&2.into(), &2.into(), &2.into())
    );
    assert_eq!(
        call["dst_endpoint"],
        json!({ "ip": "203.0.113.9", "port": 443 })
    );
    assert_eq!(call["actor"]["process"]["cmd_line"], "curl -d 'a b'");
    assert_eq!(finding["finding_info"]["title"], "credential-then-infra");
    assert_eq!(
        finding["finding_info"]["related_events"][0]["uid"],
        call["metadata"]["uid"]
    );
    assert_ne!(finding["metadata"]["uid"], call["metadata"]["uid"]);
    assert_eq!(call["time"], 1_795_293_622_123_u64);
    let allowed = samples::act(Kind::Open, json!({ "path": "/x" }), "allow");
    assert_eq!(of(&allowed, &host()).len(), 1);
}
