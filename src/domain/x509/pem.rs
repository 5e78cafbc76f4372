//! PEM as the peers read it: one block decoded by our own strict rules, written with 64-character lines.
