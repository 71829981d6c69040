//! The inventory of a server: the things on the machine, each with its owner.

use std::fmt;

use crisp_proto::crisp::v1::{InventoryItem, InventoryOwner, InventoryRequest};
use serde_json::{Value, json};

use super::super::client::refused;
use super::super::{Client, json as message};
use crate::table::{Table, short};

/// All things.
pub struct Things(Vec<InventoryItem>);

/// The number of things by owner. The numbers add up to `all`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pods: usize,
    containers: usize,
    images: usize,
    server: usize,
    others: usize,
    orphans: usize,
    /// Removed orphans.
    removed: usize,
}

impl Things {
    /// Requests the inventory; with `fix`, the server also removes orphans.
    ///
    /// # Errors
    /// The server's error.
    pub async fn load(client: &mut Client, fix: bool) -> anyhow::Result<Self> {
        let reply = client.diagnosis.inventory(InventoryRequest { remove_orphans: fix }).await;
        let mut items = reply.map_err(refused)?.into_inner().items;
        items.sort_by(|a, b| (&a.kind, &a.name).cmp(&(&b.kind, &b.name)));
        Ok(Self(items))
    }

    pub fn orphans_left(&self) -> usize {
        self.0.iter().filter(|item| is_orphan(item) && !item.removed).count()
    }

    pub fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for item in &self.0 {
            *match item.owner() {
                InventoryOwner::OwnerPod => &mut summary.pods,
                InventoryOwner::OwnerContainer => &mut summary.containers,
                InventoryOwner::OwnerImage => &mut summary.images,
                InventoryOwner::OwnerServer => &mut summary.server,
                InventoryOwner::OwnerAnother => &mut summary.others,
                InventoryOwner::OwnerNone => &mut summary.orphans,
            } += 1;
            summary.removed += usize::from(item.removed);
        }
        summary
    }

    /// A line for each orphan.
    pub fn findings(&self) -> Vec<String> {
        self.0.iter().filter(|item| is_orphan(item)).map(finding).collect()
    }

    pub fn table(&self) -> Table {
        let mut table = Table::new(&["KIND", "NAME", "OWNER"]);
        for item in &self.0 {
            table.row(vec![item.kind.clone(), item.name.clone(), owner(item)]);
        }
        table
    }

    /// # Errors
    /// A message that is not of the contract.
    pub fn document(&self) -> anyhow::Result<Value> {
        message::list(&self.0)
    }
}

fn is_orphan(item: &InventoryItem) -> bool {
    item.owner() == InventoryOwner::OwnerNone
}

fn finding(item: &InventoryItem) -> String {
    let InventoryItem { kind, name, owner_name: why, removed, error, .. } = item;
    match (removed, error.as_str()) {
        (true, _) => format!("removed: {kind} {name} ({why})"),
        (false, "") => format!("orphan: {kind} {name}: {why}"),
        (false, error) => format!("orphan: {kind} {name}: {why}; it cannot be removed: {error}"),
    }
}

fn owner(item: &InventoryItem) -> String {
    let InventoryItem { owner_id, owner_name: name, .. } = item;
    match item.owner() {
        InventoryOwner::OwnerPod => format!("pod {name} ({})", short(owner_id)),
        InventoryOwner::OwnerContainer => format!("container {name} ({})", short(owner_id)),
        InventoryOwner::OwnerImage => format!("image {name}"),
        InventoryOwner::OwnerServer => format!("this server: {name}"),
        InventoryOwner::OwnerAnother => format!("not this server's: {name}"),
        InventoryOwner::OwnerNone => format!("NONE: {name}"),
    }
}

impl Summary {
    pub fn document(&self) -> Value {
        let Self { pods, containers, images, server, others, orphans, removed } = self;
        json!({
            "all": self.all(), "pods": pods, "containers": containers, "images": images, "server": server,
            "others": others, "orphans": orphans, "removed": removed,
        })
    }

    fn all(&self) -> usize {
        self.pods + self.containers + self.images + self.server + self.others + self.orphans
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pods, containers, images, server, others, orphans, removed } = self;
        write!(
            f,
            "{} things: {pods} of pods, {containers} of containers, {images} of images, {server} of the server, \
             {others} not of this server, {orphans} without an owner",
            self.all()
        )?;
        if *removed > 0 { write!(f, " ({removed} removed)") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(owner: InventoryOwner, name: &str) -> InventoryItem {
        let (kind, name) = ("cgroup".to_owned(), name.to_owned());
        InventoryItem {
            kind,
            name,
            owner: owner.into(),
            owner_name: "why".into(),
            ..InventoryItem::default()
        }
    }

    #[test]
    fn counts_add_up_and_orphans_are_said() {
        let removed = InventoryItem { removed: true, ..item(InventoryOwner::OwnerNone, "/a") };
        let failed = InventoryItem { error: "busy".into(), ..item(InventoryOwner::OwnerNone, "/b") };
        let things = Things(vec![
            item(InventoryOwner::OwnerPod, "/p"),
            item(InventoryOwner::OwnerAnother, "/o"),
            item(InventoryOwner::OwnerNone, "/n"),
            removed,
            failed,
        ]);
        assert_eq!(
            things.summary().to_string(),
            "5 things: 1 of pods, 0 of containers, 0 of images, 0 of the server, 1 not of this server, \
             3 without an owner (1 removed)"
        );
        assert_eq!(things.orphans_left(), 2);
        assert_eq!(
            things.findings(),
            [
                "orphan: cgroup /n: why",
                "removed: cgroup /a (why)",
                "orphan: cgroup /b: why; it cannot be removed: busy",
            ]
        );
    }
}
