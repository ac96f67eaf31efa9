// Package drills holds the tests of docs/break-glass.md and docs/backup.md: each emergency is brought about in an installation that
// init made, the commands of these pages are run as they stand, and what they promise has to come true. It has no code of its own.
package drills
