//! Whatever stands in `MANTLET_PROBES`, the sidecar asks its own pod alone, under paths that cannot be guessed; and
//! whatever a server says of its health, only one message means that it is well.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use libfuzzer_sys::fuzz_target;
use mantlet_proxy::{
    config::{Action, Probes},
    probes::Health,
};

const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 0, 7));

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(probes) = Probes::parse(text, POD)
    {
        for (path, handler) in &probes.handlers {
            let token = path.strip_prefix("/app-health/").and_then(|rest| rest.split('/').next());
            assert!(token.is_some_and(|token| token.len() >= 32), "{path}");
            assert_eq!(handler.to.ip(), POD);
            assert_ne!(handler.to.port(), 0);
            if let Action::Http { target, .. } = &handler.action {
                assert!(target.authority().is_none() && target.path().starts_with('/'), "{target}");
            }
        }
    }
    if Health::read(bytes) == Some(Health::Serving) {
        assert_eq!(bytes.get(5..7), Some(&[8, 1][..]));
    }
});
