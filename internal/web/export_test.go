package web

// Defaults, for docs/page.md.
const (
	DefaultBurst     = defaultBurst
	DefaultPerSecond = defaultPerSecond
)
