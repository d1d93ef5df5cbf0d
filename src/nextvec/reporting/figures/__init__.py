"""The figures. A module's name is the section of the report that its figures stand in; a new figure is one
function with `@figure` in a module here: nothing else names it."""
