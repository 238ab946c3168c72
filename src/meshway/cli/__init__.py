"""The `meshway` command. One module per command, imported when it is used, so that `meshway up` starts fast."""
