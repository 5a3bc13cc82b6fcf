"""How Holdfast is put on machines: here on this one (`deploy.local`), elsewhere in the folders beside it."""
