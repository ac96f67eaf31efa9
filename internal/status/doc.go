// Package status is what the leader tells about itself: the status document that it writes beside its rounds, how much of
// GitLab's rate limits it uses, and the history of its changes; and how the commands `status` and `history` show them. It
// decides nothing, and no round waits for it.
package status
