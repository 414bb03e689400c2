"""What runs leave: tables, statistics, tracking. Never trains."""
