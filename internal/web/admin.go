package web

import "context"

// Admin is what administrators see and do.
type Admin interface {
	// Is reports whether somebody is an administrator now.
	Is(ctx context.Context, user int64) (bool, error)
}
