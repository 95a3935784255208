//! The same without being root on the machine: as a user who has a range of other users.

use mantlet_testkit::netns;

#[test]
fn an_ordinary_user_with_a_range_of_users_sees_the_same() {
    // One of each kind: redirection out and in, users that differ, the capability of a file, the kernel's list.
    netns::as_ordinary_user(
        "an_ordinary_user_with_a_range_of_users_sees_the_same",
        env!("CARGO_BIN_EXE_mantlet-init"),
        &[
            "outbound::n01_the_app_s_connection_arrives_at_the_outbound_listener_with_its_destination",
            "outbound::n03_the_sidecar_s_user_or_group_alone_exempts_nothing",
            "inbound::n06_a_connection_to_the_app_s_port_arrives_at_the_inbound_listener_with_its_destination",
            "failures::an_ordinary_user_installs_the_rules_by_the_capability_of_the_file",
            "listing::the_program_s_rules_are_those_it_prints",
        ],
    );
}
