"""The dispatch service: applies outbound records and pushes hints."""
