//! What the rules have counted.

use serde_json::Value;

use super::Place;

/// The counters of a table, as `nft` lists them.
#[derive(Clone, Debug)]
pub struct Counters(Vec<Value>);

// === impl Counters ===

impl Counters {
    /// Those of the table `inet mantlet` in this place, which must be root's.
    ///
    /// # Panics
    /// When there is no such table.
    pub async fn read(place: &Place) -> Self {
        Self::of(place, "mantlet").await
    }

    /// Those of another table of the family `inet`.
    ///
    /// # Panics
    /// When there is no such table.
    pub async fn of(place: &Place, table: &str) -> Self {
        let listed = place.command(&format!("nft -j list table inet {table}")).await;
        let listed: Value = serde_json::from_str(&listed).expect("nft writes JSON");
        let items = listed["nftables"].as_array().expect("a list").iter();
        Self(items.filter_map(|item| item.get("rule")).cloned().collect())
    }

    /// Packets that rules of this chain with this verdict (`redirect`, `reject`, `drop`) have counted; all
    /// counted ones for the verdict `*`.
    pub fn packets(&self, chain: &str, verdict: &str) -> u64 {
        let rules = self.0.iter().filter(|rule| rule["chain"] == chain);
        let counted = rules.filter_map(|rule| {
            let parts = rule["expr"].as_array()?;
            let has = |name: &str| parts.iter().find_map(|part| part.get(name));
            let counter = has("counter")?;
            (verdict == "*" || has(verdict).is_some()).then(|| counter["packets"].as_u64())?
        });
        counted.sum()
    }
}
