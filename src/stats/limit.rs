//! The limits on clients, as what they end is counted.

/// A limit that ended a client's request or connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The head is too long, or has too many fields.
    Head,
    /// The body of a request is too long.
    Body,
    /// The client has too many connections.
    Connections,
    /// The client sends too many requests.
    Rate,
    /// A head was not whole in time.
    HeadTime,
    /// Nothing came of a body for too long.
    BodyTime,
    /// A body came too slowly.
    BodyRate,
    /// A client took nothing of its response for too long.
    ReadTime,
    /// A client took its response too slowly.
    ReadRate,
}

impl Limit {
    /// How many there are.
    pub const COUNT: usize = 9;

    /// All of them, in the order of their counters.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Head,
        Self::Body,
        Self::Connections,
        Self::Rate,
        Self::HeadTime,
        Self::BodyTime,
        Self::BodyRate,
        Self::ReadTime,
        Self::ReadRate,
    ];
}

#[cfg(test)]
mod tests {
    use super::Limit;

    #[test]
    fn each_has_a_counter_of_its_own() {
        for (place, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, place);
        }
    }
}
