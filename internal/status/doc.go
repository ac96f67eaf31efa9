// Package status is what the leader tells about itself: the status document that it writes beside its rounds, and how much of
// GitLab's rate limits it uses; and how the command `status` shows it. It
// decides nothing, and no round waits for it.
package status
