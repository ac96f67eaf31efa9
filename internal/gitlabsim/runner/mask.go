package runner

import (
	"bytes"
	"slices"
)

// maxLog is GitLab's default limit of a job log (output_limit of the runner).
const maxLog = 4 << 20

const masked = "[MASKED]"

// masker is a log that never holds a secret, wherever a write happens to end: what could still become a secret is held back
// until more comes or the log ends. Overlapping secrets are masked as one.
type masker struct {
	secrets [][]byte
	pending []byte
	log     bytes.Buffer
	full    bool
}

func newMasker(secrets []string) *masker {
	m := &masker{}
	for _, s := range secrets {
		if s != "" {
			m.secrets = append(m.secrets, []byte(s))
		}
	}
	// Longest first, so that the first match is the longest.
	slices.SortFunc(m.secrets, func(a, b []byte) int { return len(b) - len(a) })
	return m
}

func (m *masker) Write(p []byte) (int, error) {
	m.pending = append(m.pending, p...)
	m.drain(false)
	return len(p), nil
}

// String ends the log and returns it.
func (m *masker) String() string {
	m.drain(true)
	return m.log.String()
}

func (m *masker) drain(end bool) {
	done := 0 // everything before is in the log
	for i := 0; i < len(m.pending); {
		n, undecided := m.secretAt(i)
		if undecided && !end {
			m.emit(m.pending[done:i])
			m.pending = append(m.pending[:0], m.pending[i:]...)
			return
		}
		if n == 0 {
			i++
			continue
		}
		m.emit(m.pending[done:i])
		m.emit([]byte(masked))
		i += n
		done = i
	}
	m.emit(m.pending[done:])
	m.pending = m.pending[:0]
}

// secretAt returns how far a secret that begins at i reaches, together with the secrets that begin inside it; undecided
// means that more input could make it reach further.
func (m *masker) secretAt(i int) (length int, undecided bool) {
	length, undecided = m.matchAt(i)
	for j := i + 1; j < i+length; j++ {
		n, more := m.matchAt(j)
		length = max(length, j-i+n)
		undecided = undecided || more
	}
	return length, undecided
}

func (m *masker) matchAt(i int) (length int, undecided bool) {
	rest := m.pending[i:]
	for _, s := range m.secrets {
		if len(s) > len(rest) {
			undecided = undecided || bytes.HasPrefix(s, rest)
		} else if length == 0 && bytes.HasPrefix(rest, s) {
			length = len(s)
		}
	}
	return length, undecided
}

func (m *masker) emit(p []byte) {
	if m.full {
		return
	}
	if m.log.Len()+len(p) > maxLog {
		p = p[:maxLog-m.log.Len()]
		m.full = true
	}
	m.log.Write(p)
	if m.full {
		m.log.WriteString("\nJob's log exceeded limit of 4194304 bytes.\n")
	}
}
