use super::{
    keys::{Id, KEYS},
    *,
};

const REQUIRED: &[&str] =
    &["--workload-api", "unix:///run/agent.sock", "--inbound", "127.0.0.1:0=127.0.0.1:80"];

fn load_with(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Loaded, LoadError> {
    load(
        "mantlet-proxy",
        arguments.iter().map(OsString::from),
        environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))),
    )
}

fn config(arguments: &[&str], environment: &[(&str, &str)]) -> Config {
    match load_with(&[REQUIRED, arguments].concat(), environment) {
        Ok(Loaded::Run(config)) => *config,
        other => panic!("{other:?}"),
    }
}

fn mistakes(arguments: &[&str], environment: &[(&str, &str)]) -> Vec<Mistake> {
    match load_with(arguments, environment) {
        Err(LoadError::Mistakes(mistakes)) => mistakes.all().to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn defaults_are_those_of_the_table() {
    let config = config(&[], &[]);
    assert_eq!(config.admin.to_string(), "127.0.0.1:24190");
    assert_eq!(config.unconfigured, Unconfigured::Deny);
    assert_eq!(config.policy, PolicyLocation::None);
    assert_eq!(config.drain_deadline, Duration::from_secs(30));
    assert_eq!(config.max_stale_identity, Duration::from_secs(12 * 3600));
    assert_eq!(config.max_connections, 10_000);
    assert_eq!(config.access_log, AccessLog::Off);
    assert_eq!(config.workers, None);
    assert_eq!(config.exit_with_parent, None);
}

#[test]
fn every_default_is_a_valid_value_and_every_key_has_a_row() {
    let mut flags: Vec<_> = KEYS.iter().map(|key| key.flag).collect();
    let mut variables: Vec<_> = KEYS.iter().map(|key| key.environment).collect();
    let mut ids: Vec<_> = KEYS.iter().map(|key| key.id).collect();
    let count = KEYS.len();
    flags.sort_unstable();
    flags.dedup();
    variables.sort_unstable();
    variables.dedup();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((flags.len(), variables.len(), ids.len()), (count, count, count));
    for key in KEYS {
        assert!(keys::SECTIONS.contains(&key.section), "{}", key.flag);
        let derived = format!("{}{}", keys::PREFIX, key.flag.to_uppercase().replace('-', "_"));
        let named_elsewhere = [Id::WorkloadApi, Id::KubernetesHost, Id::KubernetesPort].contains(&key.id);
        assert!(key.environment == derived || named_elsewhere, "{}", key.environment);
    }
}

#[test]
fn flags_win_over_the_environment_which_wins_over_defaults() {
    let environment = [("MANTLET_DRAIN_DEADLINE", "5s"), ("MANTLET_IDLE_TIMEOUT", "9s")];
    let config = config(&["--drain-deadline", "1s"], &environment);
    assert_eq!(config.drain_deadline, Duration::from_secs(1));
    assert_eq!(config.idle_timeout, Duration::from_secs(9));
    let source = |name: &str| config.effective.iter().find(|row| row.key == name).map(|row| row.source);
    assert_eq!(source("drain-deadline"), Some(Source::Flag));
    assert_eq!(source("idle-timeout"), Some(Source::Environment));
    assert_eq!(source("header-timeout"), Some(Source::Default));
}

#[test]
fn an_explicit_endpoint_wins_over_the_standard_variable() {
    let config = config(&[], &[("SPIFFE_ENDPOINT_SOCKET", "unix:///elsewhere.sock")]);
    assert!(config.effective.iter().any(|row| row.values == ["unix:///run/agent.sock"]));
}

#[test]
fn repeatable_keys_are_lines_in_the_environment_and_flags_replace_them() {
    let inbound = "127.0.0.1:0=127.0.0.1:80\n\n 127.0.0.1:0=127.0.0.1:81 \n";
    let arguments = ["--workload-api", "unix:///run/agent.sock"];
    match load_with(&arguments, &[("MANTLET_INBOUND", inbound)]) {
        Ok(Loaded::Run(config)) => assert_eq!(config.inbound.len(), 2),
        other => panic!("{other:?}"),
    }
    assert_eq!(config(&[], &[("MANTLET_INBOUND", inbound)]).inbound.len(), 1);
}

#[test]
fn every_mistake_is_reported_at_once_with_key_value_and_accepted_form() {
    let found = mistakes(
        &[
            "--drain-deadline",
            "30",
            "--admin",
            "localhost:1",
            "--outbound",
            "127.0.0.1:1=h:80",
            "--outbound",
            "x",
        ],
        &[("MANTLET_UNCONFIGURED", "allow"), ("MANTLET_WORKER", "2")],
    );
    let text = Mistakes::to_string(&match load_with(&["--drain-deadline", "30"], &[]) {
        Err(LoadError::Mistakes(mistakes)) => mistakes,
        other => panic!("{other:?}"),
    });
    assert!(
        text.contains("--drain-deadline \"30\": no unit; did you mean 30s?; accepted: a whole number"),
        "{text}"
    );
    let keys: Vec<&str> = found.iter().map(|mistake| mistake.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "MANTLET_WORKER",
            "--outbound",
            "--outbound",
            "--workload-api (or SPIFFE_ENDPOINT_SOCKET)",
            "MANTLET_UNCONFIGURED",
            "--admin",
            "--drain-deadline",
        ]
    );
    assert!(found.iter().all(|mistake| !mistake.accepts.is_empty() && !mistake.problem.is_empty()));
    assert!(found[0].problem.contains("MANTLET_WORKERS"));
}

#[test]
fn a_wrong_trust_domain_does_not_repeat_itself_in_every_identity() {
    let arguments = ["--trust-domain", "a b", "--outbound", "127.0.0.1:1=h:80 is a/b"];
    let found = mistakes(&[REQUIRED, &arguments].concat(), &[]);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].key, "--trust-domain");
}

#[test]
fn what_kubernetes_and_others_set_is_no_mistake() {
    config(&[], &[("MANTLET_PORT_443_TCP", "tcp://10.0.0.1:443"), ("PATH", "/bin"), ("TEST_MANTLET", "1")]);
}

#[test]
fn values_that_only_together_make_no_sense_are_mistakes() {
    let together = mistakes(&[REQUIRED, &["--policy", "a", "--annotations", "b"]].concat(), &[]);
    assert!(together[0].problem.contains("together"));
    let twice = mistakes(&[REQUIRED, &["--inbound", "127.0.0.1:24190=127.0.0.1:80"]].concat(), &[]);
    assert!(twice[0].problem.contains("twice"));
    let nobody = mistakes(&["--workload-api", "unix:///run/agent.sock"], &[]);
    assert!(nobody[0].problem.contains("no listener"));
}

#[test]
fn a_value_cannot_draw_on_the_terminal() {
    let found = mistakes(&[REQUIRED, &["--admin", "\u{1b}[31mred"]].concat(), &[]);
    assert!(!found[0].to_string().contains('\u{1b}'));
    let long = mistakes(&[REQUIRED, &["--admin", &"x".repeat(5000)]].concat(), &[]);
    assert!(long[0].to_string().len() < 400);
}

#[test]
fn an_unknown_flag_is_a_usage_error() {
    assert!(matches!(load_with(&["--inbounds", "x"], &[]), Err(LoadError::Usage(_))));
}

#[test]
fn print_config_shows_each_value_with_its_source() {
    let arguments = [REQUIRED, &["--print-config", "--namespace", "shop"]].concat();
    let Ok(Loaded::Print(text)) = load_with(&arguments, &[("MANTLET_LOG", "debug")]) else { panic!() };
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert!(line("namespace").ends_with("(flag)") && line("namespace").contains("shop"), "{text}");
    assert!(line("log").ends_with("(environment)"), "{text}");
    assert!(line("svid-hint").contains("  -  ") && line("svid-hint").ends_with("(default)"), "{text}");
    assert!(!text.contains("exit-with-parent"), "{text}");
}

#[test]
fn help_lists_every_key_with_default_and_variable() {
    let Ok(Loaded::Print(help)) = load_with(&["--help"], &[]) else { panic!() };
    for key in KEYS.iter().filter(|key| !key.hidden) {
        assert!(help.contains(&format!("--{}", key.flag)), "{}", key.flag);
        assert!(help.contains(key.environment), "{}", key.environment);
    }
    assert!(!help.contains("exit-with-parent"));
}

#[test]
fn the_expected_identity_needs_all_three_parts() {
    let arguments = ["--trust-domain", "prod.test", "--namespace", "shop"];
    assert_eq!(config(&arguments, &[]).expected_id(), None);
    let arguments = [&arguments[..], &["--service-account", "api"]].concat();
    let id = config(&arguments, &[]).expected_id().unwrap();
    assert_eq!(id.as_str(), "spiffe://prod.test/ns/shop/sa/api");
}

#[test]
fn guardrails_are_lines_and_each_wrong_one_is_named() {
    let lines = "forbid plaintext\nmax-until 30d\ndeny mesh to * /admin/**";
    let good = config(&[], &[("MANTLET_GUARDRAILS", lines)]);
    assert!(good.guardrails.forbid_plaintext);
    assert!(good.guardrails.denies.contains("/admin"));
    let found = mistakes(REQUIRED, &[("MANTLET_GUARDRAILS", "forbid everything\nforbid plaintext\nallow a")]);
    let values: Vec<_> = found.iter().filter_map(|mistake| mistake.value.as_deref()).collect();
    assert_eq!(values, ["forbid everything", "allow a"]);
}

#[test]
fn draining_needs_the_socket_and_nothing_else() {
    let drain = |arguments: &[&str], environment: &[(&str, &str)]| load_with(arguments, environment);
    let environment =
        [("MANTLET_ADMIN_SOCKET", "/run/a.sock"), ("MANTLET_UNKNOWN", "x"), ("MANTLET_ADMIN", "wrong")];
    for (arguments, expected) in
        [(&["drain"][..], "/run/a.sock"), (&["drain", "--admin-socket", "/run/b.sock"][..], "/run/b.sock")]
    {
        match drain(arguments, &environment) {
            Ok(Loaded::Drain(path)) => assert_eq!(path, Path::new(expected)),
            other => panic!("{other:?}"),
        }
    }
    assert!(mistakes(&["drain"], &[])[0].to_string().contains("MANTLET_ADMIN_SOCKET"));
}

#[test]
fn a_log_level_is_one_that_exists_and_has_an_end() {
    let environment = [("MANTLET_ADMIN_SOCKET", "/run/a.sock"), ("MANTLET_ADMIN", "wrong")];
    match load_with(&["log-level", "debug"], &environment) {
        Ok(Loaded::LogLevel { socket, level, limit }) => {
            assert_eq!((socket.as_path(), &*level, &*limit), (Path::new("/run/a.sock"), "debug", "10m"));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(load_with(&["log-level", "loud"], &environment), Err(LoadError::Usage(_))));
}

#[test]
fn what_is_redirected_is_taken_on_two_ports_for_the_addresses_of_the_pod() {
    let arguments =
        ["--workload-api", "unix:///run/agent.sock", "--intercept", "--pod-ips", "10.0.0.5,fd00::5"];
    let Ok(Loaded::Run(config)) = load_with(&arguments, &[]) else {
        panic!("no listener of its own is needed")
    };
    let pod_ips = ["10.0.0.5", "fd00::5"].map(|ip| ip.parse().unwrap()).to_vec();
    assert_eq!(config.intercept, Some(Intercept { inbound: 24143, outbound: 24140, pod_ips }));
    assert_eq!(self::config(&["--pod-ips", "10.0.0.5"], &[]).intercept, None);
}

#[test]
fn the_ports_of_interception_belong_to_nothing_else() {
    let problem = |arguments: &[&str]| {
        let ours = [REQUIRED, &["--intercept", "--pod-ips", "10.0.0.5"], arguments].concat();
        mistakes(&ours, &[])[0].problem.clone()
    };
    assert!(problem(&["--intercept-outbound", "24143"]).contains("used twice"));
    assert!(problem(&["--intercept-inbound", "24190"]).contains("redirected connections"));
    assert!(problem(&["--inbound", "127.0.0.1:24140=127.0.0.1:80"]).contains("redirected connections"));
    let nowhere = mistakes(&[REQUIRED, &["--intercept"]].concat(), &[]);
    assert!(nowhere[0].problem.contains("--intercept needs it"));
}
