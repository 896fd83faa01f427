// Does not compile: the compiler has to say what to write. See unsupported_type_test.cmake.
#include <torchfeed/plugin/batch_codec.h>

namespace {

class Ticket {};

}  // namespace

void send(torchfeed::BatchWriter& writer) { torchfeed::BatchCodec<Ticket>::encode(writer, Ticket()); }
