//! The four lists of the provider's API, and what is different about each.

use serde::{Deserialize, Serialize};

/// A list of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Orders to suppliers, with their lines. Their events are ordered by `revision`.
    PurchaseOrders,
    /// Who is ordered from.
    Suppliers,
    /// What is to be done in the plant.
    WorkOrders,
    /// Machines. Their ids have slashes and spaces, as in the systems that they come from.
    Assets,
}

impl Resource {
    /// All four.
    pub const ALL: [Self; 4] = [Self::PurchaseOrders, Self::Suppliers, Self::WorkOrders, Self::Assets];

    /// As in configuration and in the names of tables, such as `purchase_orders`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PurchaseOrders => "purchase_orders",
            Self::Suppliers => "suppliers",
            Self::WorkOrders => "work_orders",
            Self::Assets => "assets",
        }
    }

    /// As in the API's paths, such as `purchase-orders`.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::PurchaseOrders => "purchase-orders",
            Self::Suppliers => "suppliers",
            Self::WorkOrders => "work-orders",
            Self::Assets => "assets",
        }
    }

    /// The part of an event's type before the dot, such as `purchase_order`.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::PurchaseOrders => "purchase_order",
            Self::Suppliers => "supplier",
            Self::WorkOrders => "work_order",
            Self::Assets => "asset",
        }
    }

    /// What the configuration puts before a record's id, so that all four can stand in one table.
    #[must_use]
    pub const fn entity_prefix(self) -> &'static str {
        match self {
            Self::PurchaseOrders => "purchase-order-",
            Self::Suppliers => "supplier-",
            Self::WorkOrders => "work-order-",
            Self::Assets => "asset-",
        }
    }

    /// The most records that one page may be asked for.
    #[must_use]
    pub const fn page_max(self) -> usize {
        match self {
            Self::PurchaseOrders => 500,
            Self::Suppliers => 200,
            Self::WorkOrders | Self::Assets => 100,
        }
    }

    /// Whether the provider can tell how many records there are.
    #[must_use]
    pub const fn has_total(self) -> bool {
        !matches!(self, Self::Assets)
    }

    /// The list at a path.
    #[must_use]
    pub fn at_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource| resource.path() == path)
    }

    /// The list whose records have this entity, and the record's id.
    #[must_use]
    pub fn of_entity(entity: &str) -> Option<(Self, &str)> {
        Self::ALL
            .into_iter()
            .find_map(|resource| Some((resource, entity.strip_prefix(resource.entity_prefix())?)))
    }
}
