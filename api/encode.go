package api

import "strconv"

// encode writes the same bytes as encoding/json does, in a fraction of the time: there is one for every append. ok is false for an error, which is left to it.
func (r *AppendResponse) encode() (_ []byte, ok bool) {
	if r.Error != nil {
		return nil, false
	}
	b := make([]byte, 0, 256+len(r.Store)+len(r.Stream))
	b = appendText(append(b, `{"type":`...), r.Type)
	b = appendOptional(b, `,"store":`, r.Store)
	b = appendOptional(b, `,"stream":`, r.Stream)
	b = strconv.AppendUint(append(b, `,"first_version":`...), r.FirstVersion, 10)
	b = strconv.AppendUint(append(b, `,"version":`...), r.Version, 10)
	b = strconv.AppendUint(append(b, `,"first_position":`...), r.FirstPosition, 10)
	b = strconv.AppendUint(append(b, `,"position":`...), r.Position, 10)
	b = strconv.AppendBool(append(b, `,"duplicate":`...), r.Duplicate)
	return append(b, '}'), true
}

func appendOptional(b []byte, name, text string) []byte {
	if text == "" {
		return b
	}
	return appendText(append(b, name...), text)
}
