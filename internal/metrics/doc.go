// Package metrics has the program's numbers, all in one registry. No label holds anything that a user of GitLab can choose.
package metrics
