//! `mantlet.dev/served-by` of a Service: the identities that may stand behind it.

use std::collections::BTreeSet;

use mantlet_id::SpiffeId;

use super::parse::identity;
use crate::{
    diagnostic::{Code, Diagnostic},
    workload::Workload,
};

/// The annotation of a Service.
pub const SERVED_BY: &str = "mantlet.dev/served-by";

/// Most identities of one Service.
const MOST: usize = 256;

/// Parses the annotation: identities as an upstreams line has them, separated by commas. Short forms
/// resolve against `workload`, whose namespace is the one of the Service.
///
/// # Errors
/// What is wrong with the first identity that is none, an empty list, and too long a one.
pub fn served_by(text: &str, workload: &Workload) -> Result<BTreeSet<SpiffeId>, Box<Diagnostic>> {
    let fault = |message: String, help: &str| {
        Box::new(Diagnostic::general(Code::UpstreamIdentity, SERVED_BY, message, help))
    };
    let mut ids = BTreeSet::new();
    for (count, item) in text.split(',').enumerate() {
        if count >= MOST {
            return Err(fault(
                format!("more than {MOST} identities"),
                "name the service accounts that serve it",
            ));
        }
        ids.insert(identity(item.trim(), workload).map_err(|(message, help)| fault(message, help))?);
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use mantlet_id::TrustDomain;

    use super::*;

    fn parsed(text: &str) -> Result<Vec<String>, String> {
        let workload = Workload::new(TrustDomain::parse("prod.test").unwrap(), "shop");
        let ids = served_by(text, &workload).map_err(|finding| finding.to_string())?;
        Ok(ids.iter().map(|id| id.as_str().to_owned()).collect())
    }

    #[test]
    fn identities_are_written_as_in_an_upstreams_line() {
        let orders = "spiffe://prod.test/ns/shop/sa/orders".to_owned();
        assert_eq!(parsed("./orders"), Ok(vec![orders.clone()]));
        assert_eq!(parsed(" shop/orders ,\n./orders"), Ok(vec![orders.clone()]));
        let other = "spiffe://other.test/a/b".to_owned();
        assert_eq!(parsed("./orders, spiffe://other.test/a/b"), Ok(vec![other, orders]));
    }

    #[test]
    fn a_list_that_names_nobody_or_anybody_is_an_error() {
        for wrong in
            ["", " ", "./orders,", "*/*", "shop/*", "orders", "./orders as http", "./a ./b", "spiffe://x"]
        {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
        assert!(parsed(&vec!["./a"; 257].join(",")).unwrap_err().contains("256"));
    }
}
