//go:build race

package audit

// underRace says that the race detector is on, with which everything takes ten times as long.
const underRace = true
