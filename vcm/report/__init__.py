"""Pictures and pages; jobs hand them volumes and numbers."""
