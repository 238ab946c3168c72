"""Who may come in and where the hub may go: API keys, Host and Origin, egress, sealed credentials.

The room implements ports of the gateway (`Authenticator`, `ApiKeys`, `EgressRules`, `SecretBox`); assembly wires it.
"""
