//! Files and sled: the state store, the issuance log, keys, and their recovery.
