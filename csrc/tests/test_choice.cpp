// Which instruction set is taken, and what PROTOKERN_ISA may name. The choice is made once per process, so each case
// forks.
#include <sys/wait.h>
#include <unistd.h>

#include "naive.h"

using namespace naive;

namespace {

// What a fresh process chooses, or its error message.
std::string choice_with(const char* wanted) {
    int pipe_ends[2];
    if (pipe(pipe_ends) != 0) return "no pipe";
    const pid_t child = fork();
    if (child == 0) {
        if (wanted)
            setenv("PROTOKERN_ISA", wanted, 1);
        else
            unsetenv("PROTOKERN_ISA");
        std::string answer;
        try {
            answer = chosen_instructions().name;
        } catch (const std::runtime_error& error) {
            answer = error.what();
        }
        const bool written = write(pipe_ends[1], answer.data(), answer.size()) == static_cast<ssize_t>(answer.size());
        _exit(written ? 0 : 1);
    }
    close(pipe_ends[1]);
    char text[512];
    const ssize_t length = read(pipe_ends[0], text, sizeof text);
    close(pipe_ends[0]);
    waitpid(child, nullptr, 0);
    return std::string(text, length > 0 ? length : 0);
}

}  // namespace

int main() {
    const Candidates all = candidates();
    std::string fastest;
    for (int i = 0; i < all.count; ++i) {
        const char* name = all.entries[i].instructions->name;
        const std::string choice = choice_with(name);
        if (all.entries[i].supported()) {
            EXPECT(choice == name, "%s: %s", name, choice.c_str());
            if (fastest.empty() && all.entries[i].preferred()) fastest = name;
        } else {
            EXPECT(choice.find("PROTOKERN_ISA: must be") == 0, "%s: %s", name, choice.c_str());
        }
    }
    EXPECT(choice_with(nullptr) == fastest, "%s", choice_with(nullptr).c_str());
    EXPECT(choice_with("") == fastest, "%s", choice_with("").c_str());
    const std::string unknown = choice_with("sse9");
    EXPECT(unknown.find("got 'sse9'") != std::string::npos && unknown.find("base") != std::string::npos, "%s",
           unknown.c_str());
    return failures == 0 ? 0 : 1;
}
