// Package intake knows what of GitLab has to be read, reads it, and says what is new (News). A reading of everything goes on
// beside the readings of single things, so that no hook waits for it; of two readings of a thing the one that began later
// counts, in whatever order they end. Nothing that hangs in GitLab delays anything else for long: single things are read
// within ReadingTimeout, those that failed before apart from the others, and users first.
//
// What was read is told with its tickets; whether it is carried out as well, the syncer knows, and says so to the Inbox. Which links
// of groups are read again next is decided where they are read, in internal/gitlab.
//
// It decides nothing about rights and knows no Kubernetes.
package intake
