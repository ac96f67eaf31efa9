// Package sampler compares a random sample of what was read of GitLab with GitLab's own lists of members, beside the rounds.
// It tells of differences and mends none.
package sampler
