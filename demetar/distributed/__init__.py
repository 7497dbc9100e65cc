"""Several devices and several processes: how they start, meet and share a batch."""
