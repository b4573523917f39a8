"""The guided tour and the present view: two buttons in the header, and what they open."""
