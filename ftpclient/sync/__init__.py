"""One-way mirrors of trees: comparing, planning, applying."""
