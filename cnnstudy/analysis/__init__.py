"""What comes of a study's runs: the leaderboard, and pictures of a trial."""
